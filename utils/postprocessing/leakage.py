"""Starting weights that were trained on validation images: the scores are then not out of fold.

leakage.json in the folder of a run or a blend lists each such file. It is absent if there is none.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pandas as pd

from datasets.folds import get_fold, read_folds
from utils.errors import InputError
from utils.files import write_json
from utils.limits import SETTINGS_BYTES, read_bytes
from utils.safe_load import load_file

_NAME = "leakage.json"
_NETWORK = "init_from"
"""The setting that names a whole network; the other one is encoder_weights."""


def find_leak(
    path: str | Path,
    table: pd.DataFrame,
    setting: str = "encoder_weights",
    folds: Iterable[int] | None = None,
) -> dict | None:
    """Find the validation images that starting weights from a fold's checkpoint were trained on.

    The images are those of the folds.csv of the checkpoint's run, and those of the checkpoints that
    this run started from itself.

    Args:
        path: the checkpoint.
        table: the content of folds.csv of the run to train.
        setting: the setting that names the checkpoint: encoder_weights or init_from.
        folds: the folds that start from it; all by default.

    Returns:
        The checkpoint under the name of its setting; `fold` and `run` that it was trained in;
        `images`, the number of validation images of each fold, by fold number as text, that it was
        trained on, or None if that cannot be told. None if there are no such images, or the file is
        not the checkpoint of a fold.

    Raises:
        InputError: a checkpoint or a folds.csv cannot be read.
    """
    origin = _read_checkpoint(path)
    if origin is None:
        return None
    seen, images = _training_images(Path(path), set()), None
    if seen is not None:
        numbers = range(table["fold"].max() + 1) if folds is None else folds
        images = {str(n): len(seen.intersection(get_fold(table, n).valid)) for n in numbers}
    if images is not None and not any(images.values()):
        return None
    run = f"{origin['config'].get('model_type')}/{origin['config'].get('run_name')}"
    return {setting: str(path), "fold": origin["fold"], "run": run, "images": images}


def describe_leak(leak: dict) -> str:
    """Describe the result of `find_leak`."""
    source = (
        f"the network {leak[_NETWORK]} was"
        if _NETWORK in leak
        else f"the encoder weights {leak['encoder_weights']} were"
    ) + f" trained on fold {leak['fold']} of run {leak['run']}"
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
            f"{path} cannot be read as a list of starting weights: {error!r}. It was written when "
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


def is_checkpoint(content: dict) -> bool:
    """Return whether this repository wrote a file with this content, as a checkpoint of a fold."""
    return isinstance(content.get("fold"), int) and isinstance(content.get("config"), dict)


def _read_checkpoint(path: str | Path) -> dict | None:
    """Read a checkpoint that this repository wrote; None for other files.

    Raises:
        InputError: the file cannot be read.
    """
    content = load_file(path)
    return content if is_checkpoint(content) else None


def _training_images(path: Path, visited: set[Path]) -> set[str] | None:
    """Return the images that a checkpoint and those before it were trained on; None if unknown."""
    path = path.resolve()
    if path in visited:
        return set()
    visited.add(path)
    if not path.is_file():
        return None
    content = _read_checkpoint(path)
    if content is None:
        return set()
    fold, folds = content["fold"], path.parent.parent / "folds.csv"
    # An adopted checkpoint has no optimizer, and its folds.csv need not be that of its training.
    in_place = path.parent.name == f"fold{fold}" and folds.exists() and "optimizer" in content
    if not in_place:
        return None
    seen = set(get_fold(read_folds(folds), fold).train)
    for earlier in _starting_weights(content["config"], fold):
        before = _training_images(earlier, visited)
        if before is None:
            return None
        seen |= before
    return seen


def _starting_weights(config: dict, fold: int) -> Iterator[Path]:
    """Yield the files that a fold of a run started from."""
    encoder, network = config.get("encoder_weights"), config.get(_NETWORK)
    # A missing file may have held ImageNet's weights; a missing network was trained on X-rays.
    if encoder and Path(encoder).is_file():
        yield Path(encoder)
    if network:
        # All stages of a fold are trained on the same images.
        of_run = sorted(Path(network).glob(f"fold{fold}/stage*_best.pth"))
        yield of_run[0] if of_run else Path(network)
