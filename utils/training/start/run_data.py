"""What a run is trained on: recorded in its folder once, and compared whenever it goes on.

folds.csv has the fold of every image, data.csv the fingerprints of its image and of its mask, and
train_bits.json the depth of 16-bit originals.
"""

from pathlib import Path

import pandas as pd

from datasets.folds import read_folds, write_folds
from datasets.formats.depth import bits_file, read_bits, write_bits
from datasets.sources.base import Sample
from datasets.sources.fingerprint import Fingerprint, take_fingerprints
from utils.console import print0
from utils.csv_files import read_columns
from utils.errors import InputError
from utils.files import atomic_write

_COLUMNS = ("ImageId", "image", "mask")


def compare_folds(folder: Path, table: pd.DataFrame) -> None:
    """Compare the folds with those of a run, if the run has been started.

    Patients may have become known or unknown since: folds.csv keeps those that it was written with.

    Args:
        folder: the run's folder.
        table: the content of folds.csv that this call would write.

    Raises:
        InputError: an image is in another fold, is or is not a positive, or is in one table only.
    """
    path = folder / "folds.csv"
    if path.exists() and not _without_patients(read_folds(path)).equals(_without_patients(table)):
        raise InputError(
            f"{path} holds other folds than this call would create: images, masks, patients or the "
            "--exclude list have changed, or the run was started with the other script of main.py "
            "and train_sfold.py"
        )


def _without_patients(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="PatientId")


def compare_files(folder: Path, samples: dict[str, Sample]) -> None:
    """Compare the files of a data set with those that a run was started with, if it recorded them.

    Images that only one of them has are left to `compare_folds`.

    Args:
        folder: the run's folder.
        samples: the files by image id.

    Raises:
        InputError: a file differs or cannot be read.
    """
    recorded = _read_fingerprints(folder / "data.csv")
    if recorded is None:
        return
    present = {name: sample for name, sample in samples.items() if name in recorded}
    changed = [
        path
        for name, found in take_fingerprints(present).items()
        for path, is_same in (
            (present[name].image, found.image == recorded[name].image),
            (present[name].mask, found.mask == recorded[name].mask),
        )
        if not is_same
    ]
    if changed:
        raise InputError(
            f"run {folder} was started with other images or masks: {len(changed):,} of "
            f"{2 * len(present):,} files have changed, the first is {changed[0]}. Restore them "
            "(or set --dataset_root to the run's images), or start a new run with another "
            "--run_name"
        )


def compare_bits(folder: Path, dataset_root: str | Path) -> None:
    """Compare the depth of a data set's 16-bit originals with that of a run, if it was started.

    Raises:
        InputError: they differ.
    """
    path = bits_file(dataset_root)
    bits, of_run = read_bits(path), read_bits(bits_file(folder))
    if bits != of_run and (folder / "folds.csv").exists():
        raise InputError(
            f"run {folder} was started on images read as {of_run or 'an unknown number of'} bits, "
            f"but {path} says {bits or 'nothing'}: the images were prepared again. Set "
            "--dataset_root to the run's images, or choose another --run_name"
        )


def record_data(
    folder: Path, table: pd.DataFrame, samples: dict[str, Sample], dataset_root: str | Path
) -> None:
    """Record what a new run is trained on, or compare it with the record of an existing one.

    The caller holds the run's lock, so that processes that start a run together agree on its data.

    Args:
        folder: the run's folder.
        table: the content of folds.csv.
        samples: the files by image id.
        dataset_root: folder of the data set.

    Raises:
        InputError: the run was started with other data.
    """
    compare_bits(folder, dataset_root)
    compare_files(folder, samples)
    compare_folds(folder, table)
    is_new = not (folder / "folds.csv").exists()
    if not is_new and not read_folds(folder / "folds.csv").equals(table):
        print0(
            f"run {folder.name} has the same folds, but other patients than it was started with; "
            "its folds.csv and its intervals keep the earlier ones"
        )
    if not (folder / "data.csv").exists():
        if not is_new:
            print0(
                f"run {folder.name} has no record of its images and masks; from here on data.csv "
                "holds those that are there"
            )
        _write_fingerprints(folder / "data.csv", take_fingerprints(samples))
    if is_new:
        bits = read_bits(bits_file(dataset_root))
        if bits is not None:
            write_bits(bits_file(folder), bits)
        write_folds(table, folder / "folds.csv")


def _write_fingerprints(path: Path, fingerprints: dict[str, Fingerprint]) -> None:
    rows = [(name, *found) for name, found in fingerprints.items()]
    with atomic_write(path) as temporary:
        pd.DataFrame(rows, columns=list(_COLUMNS)).to_csv(temporary, index=False)


def _read_fingerprints(path: Path) -> dict[str, Fingerprint] | None:
    """Read data.csv; None if there is none, as in runs of earlier versions.

    Raises:
        InputError: the file cannot be read as a table of fingerprints.
    """
    if not path.exists():
        return None
    rows = read_columns(path, _COLUMNS, "the fingerprints of a run's images and masks")
    return {name: Fingerprint(image, mask) for _, (name, image, mask) in rows}
