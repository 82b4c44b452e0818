"""Reading DICOM files: the id, the unchanged JPEG frame, or the pixels as 8-bit grey."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import generate_fragments, get_frame, parse_basic_offsets
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

from datasets.formats.headers import jpeg2000_size
from datasets.formats.pixels import check_depth, decode_image
from utils.errors import InputError, cause_of, one_line
from utils.limits import IMAGE_BYTES, check_pixels, read_bytes

# Kaggle's stage-2 ids (ID_0011fe81e) are not valid UIDs; pydicom would warn about every one.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
# Its warnings do not name the file, and what cannot be read is refused with the name.
warnings.filterwarnings("ignore", module="pydicom")

X_RAYS = ("CR", "DX", "RG", "RF", "XA")
"""Modalities that can be a chest X-ray; Kaggle's DICOMs say CR."""
_NO_DECODER = ("missing dependencies", "does not support")
"""What pydicom says of a transfer syntax without a decoder, before it lists packages that have one:
here they are not needed, and some are not maintained."""
_MAGIC = 3
"""Bytes that every JPEG, every JPEG 2000 codestream and every RLE frame starts with."""
_HEADERS = 2**16
"""Bytes that a compressed frame may have in addition to its pixels."""


def read_dicom(path: Path, pixels: bool = True) -> pydicom.Dataset:
    """Open a DICOM file, with or without its pixel data.

    Raises:
        InputError: the file cannot be read, is too large, is not a DICOM, or is deflated.
    """
    try:
        data = _read_within_limits(path)
        return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not pixels)
    except InputError:
        raise
    except InvalidDicomError as error:
        raise InputError(f"{path}: is not a DICOM file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({cause_of(error)})") from error
    except Exception as error:  # pydicom's errors have no common base class
        raise InputError(f"{path}: is not a readable DICOM ({one_line(error)})") from error


def instance_uid(dataset: pydicom.Dataset, path: Path) -> str:
    """Return the SOPInstanceUID, empty if there is none.

    Several values are joined as DICOM writes them.

    Raises:
        InputError: it cannot be read.
    """
    with _readable_errors(dataset, path):
        uid = dataset.get("SOPInstanceUID") or ""
        return uid if isinstance(uid, str) else "\\".join(uid)


def patient_id(dataset: pydicom.Dataset, path: Path) -> str:
    """Return the PatientID; empty if there is none.

    Raises:
        InputError: it cannot be read.
    """
    with _readable_errors(dataset, path):
        return str(dataset.get("PatientID") or "").strip()


def dicom_size(dataset: pydicom.Dataset, path: Path) -> tuple[int, int]:
    """Return height and width in pixels, as the header states them.

    Raises:
        InputError: they are missing or too large.
    """
    with _readable_errors(dataset, path):
        height, width = (dataset.get(name) for name in ("Rows", "Columns"))
        if not isinstance(height, int) or not isinstance(width, int):
            raise InputError(f"{path}: has no valid Rows and Columns")
        check_pixels(path, height, width)
        return height, width


def jpeg_frame(dataset: pydicom.Dataset, path: Path, any_modality: bool = False) -> bytes | None:
    """Return the frame as a JPEG file, if that file looks the same as the DICOM.

    It does for JPEG Baseline, 8 bit, MONOCHROME2, without window, lookup table or inversion.

    Args:
        dataset: a DICOM with its pixel data.
        path: the file it came from, for errors.
        any_modality: accept other modalities than X-rays.

    Returns:
        The frame's bytes, or None if `grey_pixels` is needed.

    Raises:
        InputError: the file has no usable frame.
    """
    with _readable_errors(dataset, path):
        _refuse_unusable(dataset, path, any_modality)
        if not _looks_like_its_jpeg(dataset):
            return None
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        with Image.open(io.BytesIO(frame)) as image:
            size = (dataset.Columns, dataset.Rows)
            plain = (image.format, image.mode, image.size) == ("JPEG", "L", size)
        return frame if plain else None


def has_unknown_depth(dataset: pydicom.Dataset, path: Path) -> bool:
    """Return whether the pixels may use fewer bits than the header says.

    Exporters write BitsStored 16 for 12-bit detectors. Such a file is unsigned, has neither window
    nor lookup table, which would say what to display, and is not JPEG Baseline, which has 8 bits.

    Raises:
        InputError: a tag cannot be read.
    """
    with _readable_errors(dataset, path):
        return (
            dataset.get("BitsStored") == 16
            and dataset.get("PixelRepresentation") == 0
            and dataset.file_meta.get("TransferSyntaxUID") != JPEGBaseline8Bit
            and not _has_display_range(dataset)
        )


def largest_pixel(dataset: pydicom.Dataset, path: Path, any_modality: bool = False) -> int:
    """Return the largest stored value.

    Raises:
        InputError: see `grey_pixels`.
    """
    with _readable_errors(dataset, path):
        return int(_stored_pixels(dataset, path, any_modality).max())


def grey_pixels(
    dataset: pydicom.Dataset, path: Path, any_modality: bool = False, bits: int | None = 16
) -> np.ndarray:
    """Decode to 8-bit grey, with dense tissue bright.

    Applies the modality rescale and the VOI lookup table or first window, then maps the range of
    the result (of the stored bits if there is no table) to 0..255. MONOCHROME1 is inverted.
    Source: DICOM PS3.3 C.11.1, C.11.2 and C.7.6.3.1.2.

    Args:
        dataset: a DICOM with its pixel data.
        path: the file it came from, for errors.
        any_modality: accept other modalities than X-rays.
        bits: replaces BitsStored where `has_unknown_depth`, and there only; None refuses the file.

    Returns:
        [H,W] uint8.

    Raises:
        InputError: the file has no usable frame, no decoder supports its transfer syntax, or it has
            values above `bits`.
    """
    with _readable_errors(dataset, path):
        stored = _stored_pixels(dataset, path, any_modality)
        unknown = has_unknown_depth(dataset, path)
        depth = check_depth(stored, bits, path) if unknown else dataset.BitsStored
        values = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
        dark, bright = _value_range(dataset, depth)
        if not np.isfinite(values).all() or not np.isfinite(bright - dark) or bright == dark:
            raise InputError(f"{path}: its bit depth, rescale or window leaves no range of greys")
        grey = np.clip((values.astype(np.float64) - dark) / (bright - dark), 0, 1)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            grey = 1 - grey
        return np.rint(grey * 255).astype(np.uint8)


def _stored_pixels(dataset: pydicom.Dataset, path: Path, any_modality: bool) -> np.ndarray:
    _refuse_unusable(dataset, path, any_modality)
    _check_frame(dataset, path)
    pixels = dataset.pixel_array
    # pydicom returns all frames of uncompressed data, whatever the header says.
    _refuse_frames(pixels.shape[0] if pixels.ndim > 2 else 1, path)
    return pixels


def _refuse_unusable(dataset: pydicom.Dataset, path: Path, any_modality: bool) -> None:
    modality = str(dataset.get("Modality") or "")
    if modality and modality not in X_RAYS and not any_modality:
        raise InputError(
            f"{path}: its modality is {modality}, which is no chest X-ray ({', '.join(X_RAYS)}). "
            "Remove it, or use it all the same with --any_modality true"
        )
    if "PixelData" not in dataset:
        raise InputError(f"{path}: has no pixel data; it is no image, or truncated")
    kind = dataset.get("PhotometricInterpretation", "of unknown colours")
    if kind not in ("MONOCHROME1", "MONOCHROME2") or dataset.get("SamplesPerPixel", 1) != 1:
        raise InputError(f"{path}: is {kind}; only MONOCHROME1 and MONOCHROME2 are supported")
    _refuse_frames(max(int(dataset.get("NumberOfFrames") or 1), _count_encoded(dataset)), path)
    stored, high_bit = dataset.BitsStored, dataset.get("HighBit")
    if high_bit not in (None, stored - 1):
        raise InputError(
            f"{path}: its {stored} bits end at bit {high_bit}; only values in the lowest bits are "
            "supported"
        )
    height, width = dicom_size(dataset, path)
    # No encoding needs twice the bytes of its pixels, and RLE data could expand without limit.
    if len(dataset.PixelData) > 2 * height * width * dataset.BitsAllocated // 8 + _HEADERS:
        raise InputError(f"{path}: has more pixel data than {width}x{height} pixels can need")


def _refuse_frames(frames: int, path: Path) -> None:
    if frames != 1:
        raise InputError(f"{path}: has {frames} frames; only single images are supported")


def _count_encoded(dataset: pydicom.Dataset) -> int:
    """Count the frames of compressed pixel data, whatever the header says; 1 for other data."""
    if not dataset["PixelData"].is_undefined_length:
        return 1
    offsets = parse_basic_offsets(dataset.PixelData)
    # Without a table of offsets a frame may be in several fragments; only its first has a header.
    _, *fragments = generate_fragments(dataset.PixelData)
    starts = [fragment[:_MAGIC] for fragment in fragments]
    return len(offsets) or sum(start == starts[0] for start in starts)


def _check_frame(dataset: pydicom.Dataset, path: Path) -> None:
    """Refuse JPEG data that is damaged, or of another size than the header says, before decoding.

    pydicom's decoders return damaged 8-bit JPEG data as success. Damage in JPEG 2000 data, which
    has no strict decoder, is not noticed unless its header is hit.
    """
    syntax, expected = dataset.file_meta.get("TransferSyntaxUID"), dicom_size(dataset, path)
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) and dataset.BitsAllocated == 8:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        found, bits = decode_image(frame, path).shape[:2], dataset.BitsStored
        if bits != 8:
            raise InputError(f"{path}: its header says {bits} bits, its JPEG data has 8")
    elif syntax in JPEG2000TransferSyntaxes:
        found = jpeg2000_size(get_frame(dataset.PixelData, 0, number_of_frames=1), path)
    else:
        return
    if found != expected:
        raise InputError(
            f"{path}: its header says {expected[1]}x{expected[0]} pixels, its data has "
            f"{found[1]}x{found[0]}"
        )


def _read_within_limits(path: Path) -> bytes:
    if path.is_fifo():
        raise InputError(f"{path}: is a pipe, not a file")
    data = read_bytes(path, IMAGE_BYTES)
    # pydicom inflates a deflated file completely before its header can be checked. The transfer
    # syntax, which takes a fifth of a file's reading time, is read only if its UID occurs at all.
    if DeflatedExplicitVRLittleEndian.encode() in data:
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:
            raise InputError(
                f"{path}: is deflated, which is not supported; convert it to another transfer "
                "syntax, for example with dcmtk's dcmconv +te"
            )
    return data


def _looks_like_its_jpeg(dataset: pydicom.Dataset) -> bool:
    return (
        dataset.file_meta.get("TransferSyntaxUID") == JPEGBaseline8Bit
        and dataset.PhotometricInterpretation == "MONOCHROME2"
        # Without a window the full range is displayed, so that a positive slope changes nothing.
        and (dataset.get("RescaleSlope") or 1) > 0
        and not _has_display_range(dataset)
    )


def _has_display_range(dataset: pydicom.Dataset) -> bool:
    tables = dataset.get("ModalityLUTSequence") or dataset.get("VOILUTSequence")
    return dataset.get("WindowCenter") is not None or bool(tables)


def _value_range(dataset: pydicom.Dataset, depth: int) -> tuple[float, float]:
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        if dataset.get(name):
            return 0, 2 ** dataset[name][0].LUTDescriptor[2] - 1
    stored = np.array([0, 2**depth - 1], dtype=np.float64)
    if dataset.PixelRepresentation:
        stored -= 2 ** (depth - 1)
    low, high = apply_modality_lut(stored, dataset)
    # With a negative slope high is below low, and pydicom's windowing maps values above the window
    # to high. Without a window, larger values are brighter.
    windowed = dataset.get("WindowCenter") is not None
    return (low, high) if windowed else (min(low, high), max(low, high))


@contextmanager
def _readable_errors(dataset: pydicom.Dataset, path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # decoder plugins and malformed tags raise errors of any type
        if any(words in str(error) for words in _NO_DECODER):
            raise InputError(
                f"{path}: its transfer syntax ({_syntax(dataset)}) needs a decoder that is not "
                "installed; convert it, for example with gdcmconv --raw"
            ) from error
        reason = f"transfer syntax {_syntax(dataset)}): {one_line(error)}"
        raise InputError(f"{path}: cannot be decoded ({reason}") from error


def _syntax(dataset: pydicom.Dataset) -> str:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    return f"{syntax.name}, {syntax}" if isinstance(syntax, UID) else "not given"
