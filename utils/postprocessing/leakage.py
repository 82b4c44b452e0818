"""Encoder weights that were trained on validation images: the scores are then not out of fold.

leakage.json in the folder of a run or a blend lists each such file. It is absent if there is none.
"""

import json
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from datasets.folds import get_fold, read_folds
from utils.errors import InputError
from utils.files import write_json
from utils.limits import SETTINGS_BYTES, read_bytes
from utils.safe_load import load_file

_NAME = "leakage.json"


def find_leak(path: str | Path, table: pd.DataFrame) -> dict | None:
    """Find the validation images that encoder weights from a fold's checkpoint were trained on.

    The images are those of the folds.csv of the checkpoint's run, and those of the checkpoint that
    this run took its own encoder weights from.

    Args:
        path: the file given as --encoder_weights.
        table: the content of folds.csv of the run to train.

    Returns:
        `encoder_weights`, the file; `fold` and `run` that it was trained in; `images`, the number
        of validation images of each fold, by fold number as text, that it was trained on, or None
        if that cannot be told. None if there are no such images, or the file is not the checkpoint
        of a fold.

    Raises:
        InputError: a checkpoint or a folds.csv cannot be read.
    """
    origin = _read_checkpoint(Path(path))
    if origin is None:
        return None
    seen, images = _training_images(Path(path), set()), None
    if seen is not None:
        numbers = range(table["fold"].max() + 1)
        images = {str(n): len(seen.intersection(get_fold(table, n).valid)) for n in numbers}
    if images is not None and not any(images.values()):
        return None
    run = f"{origin['config'].get('model_type')}/{origin['config'].get('run_name')}"
    return {"encoder_weights": str(path), "fold": origin["fold"], "run": run, "images": images}


def describe_leak(leak: dict) -> str:
    """Describe the result of `find_leak`."""
    source = (
        f"the encoder weights {leak['encoder_weights']} were trained on fold {leak['fold']} of run "
        f"{leak['run']}"
    )
    if leak["images"] is None:
        return (
            f"{source}, perhaps on validation images of this run: on which cannot be told, as the "
            "file was moved out of its run, which has folds.csv, or was adopted"
        )
    counts = (f"{count} of fold {n}" for n, count in leak["images"].items() if count)
    return f"{source}, and so on validation images of this run: {', '.join(counts)}"


def add_leaks(folder: Path, leaks: list[dict]) -> None:
    """Add to the leakage.json of a run or a blend, unless it has the same already."""
    known = read_leaks(folder)
    new = [leak for leak in leaks if leak not in known]
    if new:
        write_json(folder / _NAME, [*known, *new])


def remove_leaks(folder: Path) -> None:
    """Remove leakage.json, if there is one."""
    (folder / _NAME).unlink(missing_ok=True)


def read_leaks(folder: Path) -> list[dict]:
    """Read leakage.json; empty if there is none.

    Raises:
        InputError: the file cannot be read.
    """
    path = folder / _NAME
    try:
        leaks = json.loads(read_bytes(path, SETTINGS_BYTES))
        for leak in leaks:
            describe_leak(leak)
    except FileNotFoundError:
        return []
    # RecursionError: thousands of nested brackets.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as a list of encoder weights: {error!r}. It was written when "
            "the run began: restore it, as without it the scores count as out of fold"
        ) from error
    return leaks


def out_of_fold(folder: Path, folds: Collection[int]) -> dict:
    """Return what summary.json and threshold.json say about leakage into the folds they score.

    Returns:
        `out_of_fold`: whether no network was trained on the images it is scored on. If not,
        `not_out_of_fold` says why.
    """
    leaks = [
        leak
        for leak in read_leaks(folder)
        if leak["images"] is None or any(leak["images"].get(str(n)) for n in folds)
    ]
    if not leaks:
        return {"out_of_fold": True}
    return {"out_of_fold": False, "not_out_of_fold": "; ".join(map(describe_leak, leaks))}


def _read_checkpoint(path: Path) -> dict | None:
    """Return a checkpoint that this repository wrote; None for other files."""
    content = load_file(path)
    is_own = isinstance(content.get("fold"), int) and isinstance(content.get("config"), dict)
    return content if is_own else None


def _training_images(path: Path, visited: set[Path]) -> set[str] | None:
    """Return the images that a checkpoint and those before it were trained on; None if unknown."""
    path = path.resolve()
    if path in visited or not path.exists():
        return set()
    visited.add(path)
    content = _read_checkpoint(path)
    if content is None:
        return set()
    fold, folds = content["fold"], path.parent.parent / "folds.csv"
    # An adopted checkpoint has no optimizer, and its folds.csv need not be that of its training.
    in_place = path.parent.name == f"fold{fold}" and folds.exists() and "optimizer" in content
    if not in_place:
        return None
    own = set(get_fold(read_folds(folds), fold).train)
    earlier = content["config"].get("encoder_weights")
    before = _training_images(Path(str(earlier)), visited) if earlier else set()
    return None if before is None else own | before
