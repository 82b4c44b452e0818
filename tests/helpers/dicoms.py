"""DICOM files for tests."""

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Generate a smooth [H,W] uint8 image with the full grey range, different for each seed."""
    noise = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    grey = np.empty(smooth.shape, np.uint8)
    return cv2.normalize(smooth, grey, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)


def jpeg(grey: np.ndarray) -> bytes:
    """Encode an image as a JPEG file."""
    return cv2.imencode(".jpg", grey)[1].tobytes()


def write_dicom(
    path: Path, pixels: np.ndarray, uid: str = "1.2.3", bits: int = 8, **tags: Any
) -> Path:
    """Write an uncompressed DICOM of [H,W] or [H,W,3] pixels; `tags` sets attributes by keyword."""
    dataset = _dataset(pixels, uid, bits)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = pixels.tobytes()
    return _save(dataset, path, tags)


def write_jpeg_dicom(
    path: Path,
    pixels: np.ndarray,
    uid: str = "1.2.3",
    frame: bytes = b"",
    syntax: UID | None = None,
    **tags: Any,
) -> Path:
    """Write a DICOM with one encapsulated frame: the pixels as JPEG, or the bytes of `frame`."""
    dataset = _dataset(pixels, uid, 8)
    dataset.file_meta.TransferSyntaxUID = syntax or JPEGBaseline8Bit
    dataset.PixelData = encapsulate([frame or jpeg(pixels)])
    dataset["PixelData"].VR = "OB"
    return _save(dataset, path, tags)


def _dataset(pixels: np.ndarray, uid: str, bits: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset = FileDataset(BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = SECONDARY_CAPTURE
    dataset.SOPInstanceUID = uid
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    return dataset


def _save(dataset: FileDataset, path: Path, tags: dict[str, Any]) -> Path:
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)
    return path
