"""DICOM Segmentations: read back by pydicom and by dcmqi, and compared with mask and source."""

import ast
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from datasets.formats import dicom_seg
from datasets.formats.dicom_seg import Author, build_segmentation, check_short_text, check_source
from tests.helpers.dcmqi import read_segment
from tests.helpers.dicoms import picture, write_dicom
from utils.config.software import Software
from utils.errors import InputError

AUTHOR = Author(
    Software("some-software", "1.2"), {"runs": "a"}, "Ärzte Ж", "Doe^Jane", "a description"
)
CR, CT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.2"
UIDS = {"StudyInstanceUID": "1.2.5.1", "SeriesInstanceUID": "1.2.5.2"}
OTHER_ID = pydicom.Dataset()
OTHER_ID.PatientID = "\u5c71 17"
PATIENT = {
    "OtherPatientIDsSequence": [OTHER_ID],
    "PatientName": "\u5c71\u7530^\u592a\u90ce",
    "PatientID": "17",
    "PatientSex": "W",
    "PatientBirthDate": "no date",
    "PatientAge": "38",
    "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
    "StudyDate": "19010101",
    "AccessionNumber": "A 1",
}
SOURCES: dict[str, dict] = {
    "bare": {},
    "as Kaggle's": {"Modality": "CR", "PixelSpacing": [0.168, 0.171], "PatientOrientation": ""},
    "id of stage 2": {"SOPInstanceUID": "ID_0011fe81e", "SOPClassUID": CR},
    "at the detector": {"SOPClassUID": CR, "ImagerPixelSpacing": [0.2, 0.3], "Modality": "CR"},
    "both spacings": {"SOPClassUID": CR, "ImagerPixelSpacing": [1, 2], "PixelSpacing": [3, 4]},
    "no usable spacing": {"PixelSpacing": [0.0, 0.0], "ImagerPixelSpacing": [-1.0, 1.0]},
    "inverted": {"PhotometricInterpretation": "MONOCHROME1", "NumberOfFrames": 1},
    "a patient": PATIENT,
    "frame without a place": {"FrameOfReferenceUID": "1.2.5.3", "SOPClassUID": CR},
    "a place": {
        "SOPClassUID": CT,
        "FrameOfReferenceUID": "1.2.5.3",
        "ImagePositionPatient": [5.0, 6.0, 7.0],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [0.5, 0.25],
        "SliceThickness": 2.0,
    },
}
SPACINGS = {
    "as Kaggle's": (0.168, 0.171),
    "at the detector": (0.2, 0.3),
    "both spacings": (1, 2),
    "a place": (0.5, 0.25),
}
QUICK = ("as Kaggle's", "a place")
"""Sources that dcmqi, which takes a third of a second, reads in every test run."""


def random_mask(height: int, width: int) -> np.ndarray:
    """Generate a mask that differs from its transpose and from all of its mirror images."""
    return (np.random.default_rng(3).random((height, width)) < 0.3).astype(np.uint8)


def write_source(folder: Path, tags: dict, height: int = 21, width: int = 30) -> Path:
    return write_dicom(folder / "source.dcm", picture(height, width), **(UIDS | tags))


@pytest.fixture(params=SOURCES)
def made(request, tmp_path):
    """The name of a source, its file, a mask, and the segmentation as a file."""
    pytest.importorskip("highdicom", reason="needs requirements-dicom-seg.txt")
    source, mask = write_source(tmp_path, SOURCES[request.param]), random_mask(21, 30)
    build_segmentation(source, mask, AUTHOR).save_as(tmp_path / "seg.dcm")
    return request.param, source, mask, tmp_path / "seg.dcm"


def test_pixels_references_and_patient_are_those_of_the_source(made):
    _, path, mask, file = made
    source, found = pydicom.dcmread(path), pydicom.dcmread(file)
    np.testing.assert_array_equal(found.pixel_array, mask)
    assert found.SegmentationType == "BINARY"
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    (frame,) = found.PerFrameFunctionalGroupsSequence
    (origin,) = frame.DerivationImageSequence[0].SourceImageSequence
    for reference in (*series.ReferencedInstanceSequence, origin):
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
    assert found.StudyInstanceUID == source.StudyInstanceUID
    for name in ("PatientName", *PATIENT.keys() - {"SpecificCharacterSet"}):
        copied, original = found.get(name), source.get(name)
        assert str(copied or "") == str(original or ""), name
    for name in ("PatientID", "PatientName", "PatientBirthDate", "StudyDate", "StudyID"):
        assert name in found
    own = {
        found.SOPInstanceUID,
        found.SeriesInstanceUID,
        found.file_meta.MediaStorageSOPInstanceUID,
    }
    assert len(own) == 2
    assert all(UID(uid).is_valid for uid in own)
    assert not own & {source.SOPInstanceUID, source.SeriesInstanceUID}


def test_the_segment_is_coded_and_names_its_author(made):
    found = pydicom.dcmread(made[3])
    (segment,) = found.SegmentSequence
    (code,) = segment.SegmentedPropertyTypeCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("36118008", "SCT")
    assert code.CodeMeaning == segment.SegmentLabel == "Pneumothorax"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("some-software", "1.2")
    assert algorithm.AlgorithmParameters == "runs=a"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert found.Manufacturer == "Ärzte Ж"
    assert found.ContentCreatorName == "Doe^Jane"
    assert found.SeriesDescription == "a description"


def test_only_a_source_with_a_place_gives_the_segmentation_its_frame_of_reference(made):
    name, _, _, file = made
    found = pydicom.dcmread(file)
    (frame,) = found.PerFrameFunctionalGroupsSequence
    position = frame.PlanePositionSequence[0].ImagePositionPatient
    assert (found.FrameOfReferenceUID == "1.2.5.3") == (name == "a place")
    assert list(position) == ([5, 6, 7] if name == "a place" else [0, 0, 0])
    (measures,) = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.PixelSpacing == pytest.approx(SPACINGS.get(name, (1, 1)))


@pytest.mark.parametrize(
    "made",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in SOURCES],
    indirect=True,
)
def test_dcmqi_reads_the_mask_and_its_place(made, tmp_path):
    name, _, mask, file = made
    found = read_segment(file, tmp_path / "read")
    np.testing.assert_array_equal(found.mask, mask)
    assert found.spacing == pytest.approx(SPACINGS.get(name, (1, 1)))
    assert found.origin == ([5, 6, 7] if name == "a place" else [0, 0, 0])
    ((segment,),) = found.content["segmentAttributes"]
    assert segment["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "36118008"
    assert segment["SegmentAlgorithmName"] == "some-software"
    assert segment["recommendedDisplayRGBValue"] == [255, 0, 0]
    assert found.content["SeriesDescription"] == "a description"


@pytest.mark.parametrize("name", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_dicom_without_the_uids_to_refer_to_is_refused(tmp_path, name):
    path = write_source(tmp_path, {name: ""})
    with pytest.raises(InputError, match=rf"source\.dcm: has no {name}, by which"):
        check_source(path)
    check_source(write_source(tmp_path, {}))


def test_a_dicom_of_an_unknown_kind_is_refused_when_it_is_written(tmp_path):
    pytest.importorskip("highdicom", reason="needs requirements-dicom-seg.txt")
    path = write_source(tmp_path, {"SOPClassUID": "1.2.3.4.5"})
    with pytest.raises(InputError, match=r"source\.dcm: no DICOM segmentation can refer to it"):
        build_segmentation(path, random_mask(21, 30), AUTHOR)


@pytest.mark.parametrize("text", ["a" * 65, "a\\b", "a\nb"])
def test_a_text_that_does_not_fit_is_refused_by_its_flag(text):
    with pytest.raises(InputError, match=r"--seg_creator .*at most 64 characters"):
        check_short_text("--seg_creator", text)
    check_short_text("--seg_creator", "a" * 64)


def test_a_real_x_ray_is_read_back_by_dcmqi(siim_data, tmp_path):
    pytest.importorskip("highdicom", reason="needs requirements-dicom-seg.txt")
    path, mask = next((siim_data / "siim/dicom").glob("*.dcm")), random_mask(1024, 1024)
    build_segmentation(path, mask, AUTHOR).save_as(tmp_path / "seg.dcm")
    found = read_segment(tmp_path / "seg.dcm", tmp_path / "read")
    np.testing.assert_array_equal(found.mask, mask)
    assert found.spacing == pytest.approx(pydicom.dcmread(path).PixelSpacing)


def test_the_package_is_imported_only_to_write_a_segmentation():
    """A top-level import would ask everyone for it who predicts."""
    tree = ast.parse(Path(dicom_seg.__file__).read_text())
    names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    names |= {
        name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names
    }
    assert "pydicom" in names
    assert not {name for name in names if name and name.startswith("highdicom")}
