"""Readers of external files: DICOM, JPEG, PNG and csv files of run-length masks."""
