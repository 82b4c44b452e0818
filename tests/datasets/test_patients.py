"""The csv of patients: read, compared with the images, and written by prepare."""

from pathlib import Path

import pytest

from datasets.formats.annotations import read_annotations
from datasets.patients import describe_unknown, find_patients, read_patients, record_patients
from utils.errors import InputError


@pytest.mark.parametrize("count", [1, 10, 57])
def test_a_csv_must_know_the_patients_of_nine_in_ten_images(count):
    ids = [f"i{n:02d}" for n in range(count)]
    for known in range(count + 1):
        patients = {name: f"p{n}" for n, name in enumerate(ids[:known])}
        text = describe_unknown(patients | {"elsewhere": "p0"}, ids)
        assert (text is None) is (known / count >= 0.9)
        if text is not None:
            assert f"the patient of {known} of the {count} images" in text
            assert f"the image i{known:02d} has no row in it" in text
            assert "its id elsewhere is none of these images" in text


def test_an_image_without_a_patient_in_its_row_is_unknown():
    text = describe_unknown({"a": "", "b": "p"}, ["a", "b"])
    assert text is not None
    assert "1 of the 2 images" in text
    assert text.endswith("the image a has no PatientId in it")


def test_real_patients_are_known_and_those_of_other_ids_are_not(siim_data):
    ids = list(read_annotations(siim_data / "siim" / "stage_2_train.csv"))
    patients = read_patients(siim_data / "siim" / "patients.csv")
    assert describe_unknown(patients, ids) is None
    text = describe_unknown(patients, [f"{name}.dcm" for name in ids])
    assert text is not None
    assert "0 of the 12047 images" in text


def test_patients_are_read_as_text_and_other_columns_ignored(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("Age,ImageId,PatientId\n50,0123,00000042\n,NA,\n", encoding="utf-8-sig")
    assert read_patients(path) == {"0123": "00000042", "NA": ""}


def test_a_patient_that_is_said_to_be_missing_is_unknown(tmp_path):
    missing = ["", "NA", "N/A", "#N/A", "nan", "NaN", "null", "NULL", "None", "Unknown", " na "]
    names = [*missing, "Nadia", "0", "unknown 7"]
    path = tmp_path / "patients.csv"
    path.write_text("ImageId,PatientId\n" + "".join(f"i{n},{p}\n" for n, p in enumerate(names)))
    patients = read_patients(path)
    assert list(patients.values()) == [""] * len(missing) + ["Nadia", "0", "unknown 7"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "cannot be read as a csv of patients"),
        (b"", "cannot be read as a csv of patients"),
        (b"\xff\xfe\x00", "cannot be read as a csv of patients"),
        (b"ImageId,PatientId\na,b\nc,d,e,f\n", "cannot be read as a csv of patients"),
        (b"image,patient\na,b\n", r"ImageId \(or .*\), found \['image', 'patient'\]"),
        (b"ImageId,PatientId\na,1\nb,1\na,2\n", "a has several rows"),
    ],
    ids=["missing", "empty", "not text", "ragged", "other columns", "twice"],
)
def test_an_unusable_csv_of_patients_is_reported(tmp_path, data, reason):
    if data is not None:
        (tmp_path / "patients.csv").write_bytes(data)
    with pytest.raises(InputError, match=rf"patients\.csv.* {reason}"):
        read_patients(tmp_path / "patients.csv")


@pytest.mark.parametrize(
    "text",
    [
        "Image Index,Finding Labels,Patient ID\n00000001_000.png,Mass,1\n00000002_000.png,,2\n",
        "patientId,image_id\n1,00000001_000\n2,00000002_000\n",
        "SOPInstanceUID,PatientID\n00000001_000,1\n00000002_000.dcm,2\n",
        "dicom_id,subject_id\n00000001_000.jpg,1\n00000002_000.jpg,2\n",
    ],
    ids=["NIH", "RSNA", "DICOM", "MIMIC"],
)
def test_tables_with_the_usual_column_names_are_read(text, tmp_path):
    (tmp_path / "table.csv").write_text(text)
    expected = {"00000001_000": "1", "00000002_000": "2"}
    assert read_patients(tmp_path / "table.csv") == expected


def record(tmp_path, files=(), of_dicoms=None):
    """Record the patients of files; return what patients.csv has then and what is printed."""
    path = tmp_path / "patients.csv"
    by_id = {name: [Path(file)] for name, file in dict(files).items()}
    notes = record_patients(path, by_id, of_dicoms or {})
    return (path.read_text() if path.exists() else None), "\n".join(notes)


@pytest.mark.parametrize(
    ("file", "patient"),
    [
        ("images_001/images/00000001_000.png", "00000001"),
        ("00030805_013_0000.png", ""),
        ("CheXpert/train/patient00001/study1/view1_frontal.jpg", "patient00001"),
        ("patient00001/study1/view1_frontal.jpg", "patient00001"),
        ("patient00001/view1_frontal.jpg", ""),
        ("files/p10/p10000032/s50414267/02aa804e.jpg", "p10000032"),
        ("20190101_001.png", ""),
        ("1.2.276.0.7230010.3.1.4.8323329.1000.1517875165.878027.dcm", ""),
        ("0_train_1_.png", ""),
        ("ID_0011fe81e.dcm", ""),
    ],
)
def test_the_patient_that_a_path_names(file, patient, tmp_path):
    text, notes = record(tmp_path, {"a": file})
    assert text == (f"ImageId,PatientId\na,{patient}\n" if patient else None)
    path = tmp_path / "patients.csv"
    assert (f"{path}: the patients of 1 images; train with --groups {path}" in notes) is (
        patient != ""
    )


def test_a_patient_id_counts_only_if_it_repeats_and_differs(tmp_path):
    files = {name: f"{name}.dcm" for name in "abc"}
    assert record(tmp_path, files, {"a": "1", "b": "2", "c": "3"}) == (None, "")
    text, notes = record(tmp_path, files, {"a": "1", "b": "1"})
    assert text is None
    assert "all 2 DICOMs have the same PatientID" in notes
    text, _ = record(tmp_path, files, {"a": "2, x", "b": "1", "c": "1"})
    assert text == 'ImageId,PatientId\na,"2, x"\nb,1\nc,1\n'
    assert read_patients(tmp_path / "patients.csv") == {"a": "2, x", "b": "1", "c": "1"}


def test_what_is_in_the_csv_stays(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("ImageId,PatientId\nb,7\nz,8\n")
    files = {"a": "00000001_000.png", "b": "00000002_000.png"}
    text, notes = record(tmp_path, files)
    assert text == "ImageId,PatientId\na,00000001\nb,7\nz,8\n"
    assert "another patient for 1 images than their files, such as b" in notes
    assert record(tmp_path, files)[0] == text
    path.write_text("Age,ImageId,PatientId\n50,b,00000002\n")
    text, notes = record(tmp_path, files)
    assert text == "Age,ImageId,PatientId\n50,b,00000002\n"
    assert notes == f"{path} has other columns and is kept, but lacks 1 images"


def test_the_csv_of_the_data_set_is_found_unless_another_is_given(tmp_path):
    assert find_patients(None, tmp_path, ["a"]) == (None, None)
    for name, patient in (("patients.csv", "1"), ("other.csv", "2")):
        (tmp_path / name).write_text(f"ImageId,PatientId\na,{patient}\n")
    own, other = tmp_path / "patients.csv", tmp_path / "other.csv"
    assert find_patients(None, tmp_path, ["a"]) == (own, {"a": "1"})
    assert find_patients(str(other), tmp_path, ["a"]) == (other, {"a": "2"})
