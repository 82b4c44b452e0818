"""DICOM Segmentations: the mask of an X-ray as a DICOM that refers to it, for viewers, archives.

A segmentation has the pixel grid of its X-ray, names it by UID, and belongs to its patient and
study. An X-ray has no place in the space of the patient, but dcmqi, which 3D Slicer reads
segmentations with, needs one. The segmentation therefore has a nominal one, in a frame of reference
of its own: where ITK, and so 3D Slicer, places an X-ray, in the plane of the first two axes with
its first pixel at the origin.
"""

import importlib.util
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from datasets.formats.dicom import read_dicom
from utils.config.software import Software
from utils.errors import InputError, one_line

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_PACKAGE = "highdicom"
_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Attributes of patient and study that every DICOM has to have, if only empty."""
_NOMINAL = {
    "ImagePositionPatient": [0.0, 0.0, 0.0],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    "PixelSpacing": [1.0, 1.0],
}
"""The place, in mm, of an image that states none."""
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_RED = (255, 0, 0)
_SERIES_NUMBER = 1000
"""Sorts the segmentations of a study after its images."""
_LO_LENGTH = 64
"""Most characters of a short text in a DICOM (value representation LO), and of a name (PN)."""


class Author(NamedTuple):
    """What a segmentation says about who and what made it.

    Attributes:
        software: the program.
        parameters: names and values of what determined the mask.
        manufacturer: maker of the program.
        creator: name of the person who ran it; may be empty.
        description: of the series.
    """

    software: Software
    parameters: dict[str, str]
    manufacturer: str
    creator: str
    description: str


def check_installed() -> None:
    """Check that the package that writes segmentations is installed.

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise InputError(
            f"not installed: {_PACKAGE}, which --dicom_seg needs; run pip install -r "
            "requirements-dicom-seg.txt"
        )


def check_short_text(flag: str, value: str) -> None:
    r"""Check that a text fits into one value of a DICOM: at most 64 characters, no \, one line.

    Raises:
        InputError: it does not.
    """
    if len(value) > _LO_LENGTH or "\\" in value or not value.isprintable():
        raise InputError(
            f"{flag} {value!r}: a DICOM takes one line of at most {_LO_LENGTH} characters "
            "without \\"
        )


def check_source(path: Path) -> None:
    """Check that a segmentation can refer to a DICOM.

    Raises:
        InputError: the file cannot be read, or it lacks an identifying UID.
    """
    _read_source(path)


def build_segmentation(path: Path, mask: np.ndarray, author: Author) -> Dataset:
    """Make the DICOM Segmentation of a mask.

    Args:
        path: the DICOM that the mask belongs to.
        mask: [H,W] uint8 of 0 and 1, at the size of the DICOM, with at least one pixel.
        author: who and what made it.

    Returns:
        The segmentation; `save_as` writes it.

    Raises:
        InputError: the DICOM lacks an identifying UID, or has values that cannot be copied.
    """
    # Its import takes half a second, and it is needed for segmentations alone.
    from highdicom.seg import Segmentation

    source = _read_source(path)
    try:
        # Its warnings are about names and ages that are copied from the source as they are.
        with warnings.catch_warnings(action="ignore"):
            segmentation = Segmentation(
                [_reference(source)],
                mask,
                "BINARY",
                [_describe_segment(author)],
                series_instance_uid=generate_uid(prefix=None),
                series_number=_SERIES_NUMBER,
                series_description=author.description,
                sop_instance_uid=generate_uid(prefix=None),
                instance_number=1,
                manufacturer=author.manufacturer,
                manufacturer_model_name=author.software.name,
                software_versions=author.software.version,
                device_serial_number=author.software.version,
                content_label="PNEUMOTHORAX",
                # UTF-8, as patient and author may use different alphabets.
                specific_character_set="ISO_IR 192",
            )
            source.decode()
            segmentation.copy_patient_and_study_information(source)
        segmentation.ContentCreatorName = author.creator
        segmentation.PositionReferenceIndicator = ""
    except Exception as error:  # malformed tags raise errors of any type
        raise InputError(
            f"{path}: no DICOM segmentation can refer to it ({one_line(error)})"
        ) from error
    return segmentation


def _read_source(path: Path) -> Dataset:
    source = read_dicom(path, pixels=False)
    missing = [name for name in _IDENTITY if not source.get(name)]
    if missing:
        raise InputError(
            f"{path}: has no {', '.join(missing)}, by which a DICOM segmentation refers to its "
            "image; predict it without --dicom_seg"
        )
    return source


def _reference(source: Dataset) -> Dataset:
    """Return what the segmentation takes from its image, apart from patient and study."""
    reference = Dataset()
    for name in (*_IDENTITY, "Rows", "Columns", *_LOSSY):
        if name in source:
            reference[name] = source[name]
    for name in _MAY_BE_EMPTY:
        setattr(reference, name, "")
    reference.Modality = source.get("Modality") or "OT"
    frame = str(source.get("FrameOfReferenceUID") or "")
    place = {name: _numbers(source, name, len(value)) for name, value in _NOMINAL.items()}
    if not frame or not all(place.values()):
        frame, place = generate_uid(prefix=None), _NOMINAL | {"PixelSpacing": _spacing(source)}
    reference.FrameOfReferenceUID = frame
    for name, numbers in place.items():
        setattr(reference, name, numbers)
    (reference.SliceThickness,) = _numbers(source, "SliceThickness", 1) or [1.0]
    return reference


def _spacing(source: Dataset) -> list[float]:
    """Return the distance of rows and of columns in mm; 1 if it is unknown."""
    # ITK prefers the spacing at the detector, except for images that were captured from a screen.
    captured = source.SOPClassUID == SecondaryCaptureImageStorage
    names = _SPACINGS if captured else ("ImagerPixelSpacing", *_SPACINGS)
    found = (_numbers(source, name, 2) for name in names)
    return next((numbers for numbers in found if numbers and min(numbers) > 0), [1.0, 1.0])


def _numbers(source: Dataset, name: str, count: int) -> list[float]:
    """Return the `count` numbers of an attribute; an empty list if it has others or none."""
    try:
        value = source.get(name)
        numbers = [float(number) for number in (value if count > 1 else [value])]
    except (TypeError, ValueError):
        return []
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else []


def _describe_segment(author: Author) -> "SegmentDescription":
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(
        name=author.software.name,
        version=author.software.version,
        family=codes.cid7162.ArtificialIntelligence,
        parameters=author.parameters,
    )
    return SegmentDescription(
        segment_number=1,
        segment_label="Pneumothorax",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Pneumothorax,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=CIELabColor.from_rgb(*_RED),
    )
