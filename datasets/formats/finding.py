"""Finding image files by their names, and DICOMs without a usual suffix by their content."""

import os
from pathlib import Path

from utils.errors import InputError

PICTURES = (".jpeg", ".jpg", ".png")
SUFFIXES = (".dcm", ".dicom", *PICTURES)
_DICOM_MARK, _PREAMBLE = b"DICM", 128


def find_images(folder: str | Path) -> list[Path]:
    """List the DICOM, JPEG and PNG files in a folder and its subfolders, sorted.

    A file without a suffix, or with a number in its place, is a DICOM if its content says so.
    Hidden files and folders are skipped, and links to folders are followed.

    Raises:
        InputError: the folder is missing or cannot be listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; expected a folder of images")
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_listing):
        real = os.path.realpath(root)
        # A link to a parent folder would otherwise recurse forever.
        folders[:] = [] if real in seen else [name for name in folders if name[0] != "."]
        names = [] if real in seen else names
        seen.add(real)
        found += [path for path in (Path(root, name) for name in names) if is_image_file(path)]
    return sorted(found)


def is_image_file(path: Path) -> bool:
    """Return whether a file is an image by its name or, without a suffix, by its content."""
    if path.name[0] == ".":
        return False
    suffix = os.path.splitext(path.name)[1].lower()
    return suffix in SUFFIXES or (_says_nothing(suffix) and _starts_as_dicom(path))


def is_dicom(path: Path) -> bool:
    """Return whether an image file is a DICOM: every one that is not called a JPEG or PNG."""
    return not path.name.lower().endswith(PICTURES)


def stem_of(name: str) -> str:
    """Strip the suffix of an image file: 1.2.3.dcm becomes 1.2.3, which stays as it is."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def _says_nothing(suffix: str) -> bool:
    # The end of a UID looks like a suffix.
    return not suffix or suffix[1:].isdecimal()


def _starts_as_dicom(path: Path) -> bool:
    try:
        # Opening a pipe would wait for its other end.
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            start = file.read(_PREAMBLE + len(_DICOM_MARK))
    except OSError:
        return False
    return start[_PREAMBLE:] == _DICOM_MARK


def _refuse_listing(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error
