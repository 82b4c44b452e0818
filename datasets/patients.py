"""The patient of each image, from a csv; prepare writes one where the files name their patients."""

import csv
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datasets.formats.annotations import ID_COLUMNS
from datasets.formats.finding import stem_of
from utils.console import print0
from utils.csv_files import read_columns
from utils.errors import InputError
from utils.files import atomic_write

PATIENTS_CSV = "patients.csv"
"""Its name in the folder of a data set."""
MIN_KNOWN = 0.9
"""Share of the images whose patient a csv of patients must know."""

_COLUMNS = ("ImageId", "PatientId")
# RSNA's patientId is the id of an image only where there is no other.
IMAGE_COLUMNS = (*(name for name in ID_COLUMNS if name != "patientId"), "Image Index", "dicom_id")
PATIENT_COLUMNS = ("PatientId", "PatientID", "patient_id", "Patient ID", "patientId", "subject_id")
_MISSING = ("na", "n/a", "#n/a", "nan", "null", "none", "unknown")
"""What R, pandas, Excel and databases write for a missing value, in lower case."""

_NIH_NAME = re.compile(r"(000\d{5})_\d{3}")
"""00000001_000.png; numbers end at 30,805, so that no date looks like one."""
_FOLDERS = re.compile(r"(?:.*/)?(?:(patient\d+)/study\d+|p\d\d/(p\d{8})/s\d{8})/[^/]+", re.DOTALL)
"""CheXpert's patient00001/study1/view1_frontal.jpg and MIMIC's p10/p10000032/s50414267/ID.jpg."""


def read_patients(path: str | Path) -> dict[str, str]:
    """Read a csv with the columns ImageId and PatientId, or others of their usual names.

    The suffix of an image file after an id is ignored. A patient that is only said to be missing,
    such as by NA, is unknown: an empty text.

    Raises:
        InputError: the file is missing, is not a csv, lacks a column or lists an image twice.
    """
    rows = read_columns(path, (IMAGE_COLUMNS, PATIENT_COLUMNS), "a csv of patients")
    patients: dict[str, str] = {}
    for _, (file, patient) in rows:
        name = stem_of(file)
        if name in patients:
            raise InputError(f"{path}: {name} has several rows; keep one")
        patients[name] = "" if patient.lower() in _MISSING else patient
    return patients


def describe_unknown(patients: dict[str, str], ids: Collection[str]) -> str | None:
    """Describe how a csv of patients fails to match a data set, with an example of each side.

    Args:
        patients: patient by image id, as `read_patients` returns them.
        ids: the images of the data set.

    Returns:
        None if the patients of at least `MIN_KNOWN` of the images are known.
    """
    unknown = [name for name in sorted(ids) if not patients.get(name)]
    known = len(ids) - len(unknown)
    if known >= MIN_KNOWN * len(ids):
        return None
    first = f"{unknown[0]} has no {'PatientId' if unknown[0] in patients else 'row'} in it"
    others = sorted(patients.keys() - set(ids))
    return (
        f"it names the patient of {known} of the {len(ids)} images, fewer than "
        f"{MIN_KNOWN:.0%}; the image {first}"
        + (f", and its id {others[0]} is none of these images" if others else "")
    )


def find_patients(
    groups: str | None, root: str | Path, ids: Collection[str]
) -> tuple[Path | None, dict[str, str] | None]:
    """Read the patients of a data set: those of --groups, or else of its own patients.csv.

    Args:
        groups: the csv given as --groups, if any.
        root: the data set's folder.
        ids: its images.

    Returns:
        The csv and the patient by image id; None and None if there is no csv.

    Raises:
        InputError: the csv cannot be read; or it is that of --groups, and does not match the
            images. One that was only found there leads to a warning.
    """
    own = Path(root) / PATIENTS_CSV
    path = Path(groups) if groups else own
    if not groups and not own.exists():
        return None, None
    patients = read_patients(path)
    unknown = describe_unknown(patients, ids)
    if unknown and groups:
        raise InputError(
            f"--groups {groups}: {unknown}. Give a csv with the ids of the images in "
            f"{root}/train_images, or leave --groups out"
        )
    if unknown:
        print0(
            f"warning: {path}: {unknown}. Intervals and shared patients count the rest as unknown"
        )
    return path, patients


def record_patients(
    path: Path, files: Mapping[str, Sequence[Path]], of_dicoms: Mapping[str, str]
) -> list[str]:
    """Write the patients that original images name, or add them to the csv that is there.

    They are named by a PatientID that repeats, or by the paths of CheXpert, MIMIC and NIH. Rows
    that are there stay, and a csv with other columns is left alone.

    Args:
        path: the csv.
        files: the files of each image, by id.
        of_dicoms: the PatientID by image id, of DICOMs that have one.

    Returns:
        Lines to print.

    Raises:
        InputError: the csv that is there cannot be read.
    """
    named, notes = _of_dicoms(of_dicoms)
    by_path = {name: _of_path(paths[0]) for name, paths in files.items()}
    named = {name: patient for name, patient in by_path.items() if patient} | named
    if not named:
        return notes
    known = read_patients(path) if path.exists() else {}
    new = named.keys() - known.keys()
    other = sorted(name for name in named.keys() & known.keys() if named[name] != known[name])
    if other:
        notes.append(
            f"{path} is kept, but has another patient for {len(other):,} images than their files, "
            f"such as {other[0]}"
        )
    if new and known and not _is_own(path):
        notes.append(f"{path} has other columns and is kept, but lacks {len(new):,} images")
    elif new:
        _write(path, known | {name: named[name] for name in new})
        notes.append(
            f"{path}: the patients of {len(new):,} images; train with --groups {path} to keep "
            "each patient in one fold"
        )
    return notes


def _of_dicoms(patients: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the patients, unless the PatientID tells none apart, and lines to print."""
    images = Counter(patients.values())
    if len(images) == len(patients):
        return {}, []
    if len(images) == 1:
        return {}, [f"all {len(patients):,} DICOMs have the same PatientID, which tells nothing"]
    return dict(patients), []


def _of_path(path: Path) -> str:
    """Return the patient that the path of an image names; empty if it names none."""
    by_folder = _FOLDERS.fullmatch(path.as_posix())
    by_name = _NIH_NAME.fullmatch(stem_of(path.name))
    found = by_folder or by_name
    return next(filter(None, found.groups()), "") if found else ""


def _is_own(path: Path) -> bool:
    with open(path, encoding="utf-8-sig") as file:
        return tuple(file.readline().strip().split(",")) == _COLUMNS


def _write(path: Path, patients: Mapping[str, str]) -> None:
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(sorted(patients.items()))
