"""The thresholds of a blend: predict every fold with all runs together, then search."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from lightning_fabric import Fabric

from datasets.folds import get_fold, read_folds, write_folds
from datasets.siim import pick_samples
from datasets.sources.base import Pixels, Sample
from datasets.sources.files import FileSource
from utils.config.layout import OUT_OF_FOLD, finished_folds
from utils.config.prediction import BlendOptions
from utils.config.tta import parse_tta
from utils.console import print0
from utils.distributed import decide_on_rank_zero, launch
from utils.errors import InputError, cause_of
from utils.files import OwnedLock, write_json
from utils.inference.out_of_fold import write_out_of_fold
from utils.inference.runs import (
    Checkpoints,
    View,
    WeightedRun,
    common_tta,
    find_checkpoints,
    prediction_precision,
    read_runs,
    results_folder,
)
from utils.inference.staging import StagedFolders
from utils.memory import readable_memory_errors
from utils.postprocessing.leakage import add_leaks, read_leaks, remove_leaks
from utils.postprocessing.selection import choose_thresholds, describe_thresholds
from utils.postprocessing.summary import format_table, summarise_run
from utils.training.start.run_data import compare_bits, compare_files

_ADVICE = "Make it writable, or copy the runs to another folder"


class BlendPlan(NamedTuple):
    """What rank 0 decides and broadcasts.

    Attributes:
        runs: the runs of the blend.
        table: the content of folds.csv.
        folds: the checkpoints of each run, by fold number.
        samples: the files of all images, by id.
        folder: for the results.
        tta: test-time augmentation, that of the runs unless another is asked for.
        root: the folder of the training images.
        suffix: of the name of this command's temporary folder.
    """

    runs: list[WeightedRun]
    table: pd.DataFrame
    folds: dict[int, list[Checkpoints]]
    samples: dict[str, Sample]
    folder: Path
    tta: str
    root: str
    suffix: str


def blend(options: BlendOptions) -> None:
    """Do the work of utils.blend on its devices.

    Raises:
        InputError: runs, images or settings cannot be used, or memory is exhausted.
    """
    runs = read_runs(options.run, options.weights, "all")
    precision = prediction_precision(options.precision, runs)
    fabric = launch(options.accelerator, options.devices, 1, precision)
    with readable_memory_errors():
        choose_for_blend(fabric, options)


def choose_for_blend(fabric: Fabric, options: BlendOptions) -> None:
    """Predict every fold, write the histograms, and choose the thresholds.

    The results of an earlier call stay until all of these are complete.

    Raises:
        InputError: runs, images or settings cannot be used, or another process has the folder.
    """
    plan = decide_on_rank_zero(fabric, lambda: make_plan(options))
    with (
        _hold(fabric, plan.folder),
        StagedFolders([plan.folder], plan.suffix, fabric.is_global_zero) as staged,
    ):
        (hidden,) = filter(None, staged.hidden)
        for number in plan.folds:
            _predict_fold(fabric, plan, number, hidden / f"fold{number}", options)
        if fabric.is_global_zero:
            _describe(plan, hidden)
            print0(f"\n{format_table(summarise_run(hidden))}\n")
            print0(describe_thresholds(choose_thresholds(hidden, plan.tta)))
            _clear(plan.folder)
            staged.publish()
            print0(f"results: {plan.folder}")


def make_plan(options: BlendOptions) -> BlendPlan:
    """Find runs, folds and images; nothing is written.

    Raises:
        InputError: something is missing or cannot be used.
    """
    runs = read_runs(options.run, options.weights, "all")
    tta = options.tta or common_tta(runs)
    table = read_folds(runs[0].folder / "folds.csv")
    for run in runs[1:]:
        _compare_folds(runs[0].folder, table, run.folder, read_folds(run.folder / "folds.csv"))
    folds = _find_folds(runs)
    root = options.dataset_root or runs[0].config.dataset_root
    samples = _find_images(root, runs, table)
    return BlendPlan(
        runs, table, folds, samples, results_folder(runs, tta), tta, root, secrets.token_hex(8)
    )


@contextmanager
def _hold(fabric: Fabric, folder: Path) -> Iterator[None]:
    """Create the folder for the results and hold its lock, on rank 0.

    Raises:
        InputError: another process holds it, or the folder cannot be written to.
    """
    lock = OwnedLock(folder, _ADVICE)

    def claim() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written to ({cause_of(error)}). {_ADVICE}"
            ) from error
        owner = lock.acquire()
        if owner is not None:
            raise InputError(f"{folder} is being written by {owner}; wait until that has ended")

    decide_on_rank_zero(fabric, claim)
    try:
        yield
    finally:
        lock.release()


def _predict_fold(
    fabric: Fabric, plan: BlendPlan, number: int, folder: Path, options: BlendOptions
) -> None:
    """Predict the validation images of a fold, and write oof.npz into its folder."""
    ids = get_fold(plan.table, number).valid

    def pixels_of(view: View) -> Pixels:
        return FileSource(plan.samples, view.clahe).pixels(ids, view.size)

    if fabric.is_global_zero:
        folder.mkdir()
    write_out_of_fold(
        fabric,
        plan.runs,
        plan.folds[number],
        pixels_of,
        ids,
        folder / OUT_OF_FOLD,
        options.num_workers,
        options.batch_size,
        tta=parse_tta(plan.tta),
    )
    print0(f"fold {number}: {len(ids)} images")


def _describe(plan: BlendPlan, folder: Path) -> None:
    """Write what the predictions were made of: folds.csv, leakage.json and blend.json."""
    write_folds(plan.table, folder / "folds.csv")
    add_leaks(folder, [leak for run in plan.runs for leak in read_leaks(run.folder)])
    write_json(
        folder / "blend.json",
        {
            "runs": [{"run": str(r.folder.resolve()), "weight": r.weight} for r in plan.runs],
            "folds": list(plan.folds),
            "tta": plan.tta,
            "dataset_root": plan.root,
        },
    )


def _compare_folds(run: Path, table: pd.DataFrame, other_run: Path, other: pd.DataFrame) -> None:
    """Refuse runs that have an image in different folds: one of them was trained on it."""
    ours, theirs = (dict(zip(t["ImageId"], t["fold"], strict=True)) for t in (table, other))

    def fold_of(folds: dict[str, int], name: str) -> str:
        return f"in fold {folds[name]}" if name in folds else "in no fold"

    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"image {name} is {fold_of(ours, name)} of {run} but {fold_of(theirs, name)} of "
                f"{other_run}. The thresholds of a blend need runs with the same folds: the same "
                "images, script, --n_splits, --groups and --exclude. For other runs, pass "
                "thresholds to predict.py as flags"
            )


def _find_folds(runs: Sequence[WeightedRun]) -> dict[int, list[Checkpoints]]:
    """Find the checkpoints of every fold that all runs have finished; report the other folds."""
    folds = {}
    for number in runs[0].config.fold_numbers():
        unfinished = [run for run in runs if number not in finished_folds(run.folder)]
        if unfinished:
            print0(f"fold {number} is left out: {unfinished[0].folder} has not finished it")
            continue
        folds[number] = [
            find_checkpoints(run.folder, replace(run.config, folds=number), "best") for run in runs
        ]
    if not folds:
        raise InputError("no fold is finished in all runs; train one in each")
    return folds


def _find_images(root: str, runs: Sequence[WeightedRun], table: pd.DataFrame) -> dict[str, Sample]:
    """Find the images and masks that all runs were trained on."""
    samples = pick_samples(root, table["ImageId"].tolist())
    missing = [name for name in table["ImageId"] if name not in samples]
    if missing:
        raise InputError(
            f"{root} lacks {len(missing)} images of {runs[0].folder}/folds.csv, the first is "
            f"{missing[0]}; give the folder of the training images with --dataset_root"
        )
    for run in runs:
        compare_bits(run.folder, root)
        compare_files(run.folder, samples)
    return samples


def _clear(folder: Path) -> None:
    """Remove the results of an earlier call that those of this one need not replace."""
    events = folder.glob("events.out.tfevents.*")
    for old in (folder / "threshold.json", *finished_folds(folder).values(), *events):
        old.unlink(missing_ok=True)
    remove_leaks(folder)
