"""Files that others wrote: DICOM, JPEG, PNG and run-length csv, read or refused by name."""
