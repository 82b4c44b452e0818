"""The thresholds of a blend: predict every fold with all runs together, then search."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from lightning_fabric import Fabric

from datasets.folds import get_fold, read_folds, write_folds
from datasets.siim import find_samples, read_excluded
from datasets.sources.base import Pixels, Sample
from datasets.sources.files import FileSource
from utils.config.layout import OUT_OF_FOLD, finished_folds
from utils.config.prediction import BlendOptions
from utils.config.tta import parse_tta
from utils.console import print0
from utils.distributed import decide_on_rank_zero, launch
from utils.errors import InputError, cause_of
from utils.files import write_json
from utils.inference.out_of_fold import write_out_of_fold
from utils.inference.runs import (
    Checkpoints,
    View,
    WeightedRun,
    common_tta,
    find_checkpoints,
    read_runs,
    results_folder,
)
from utils.memory import readable_memory_errors
from utils.postprocessing.leakage import add_leaks, read_leaks, remove_leaks
from utils.postprocessing.selection import choose_thresholds, describe_thresholds
from utils.postprocessing.summary import format_table, summarise_run


class BlendPlan(NamedTuple):
    """What rank 0 decides and broadcasts.

    Attributes:
        runs: the runs of the blend.
        table: the content of folds.csv.
        folds: the checkpoints of each run, by fold number.
        samples: the files of all images, by id.
        folder: for the results.
        tta: test-time augmentation, that of the runs unless another is asked for.
    """

    runs: list[WeightedRun]
    table: pd.DataFrame
    folds: dict[int, list[Checkpoints]]
    samples: dict[str, Sample]
    folder: Path
    tta: str


def blend(options: BlendOptions) -> None:
    """Do the work of utils.blend on its devices.

    Raises:
        InputError: runs, images or settings cannot be used, or memory is exhausted.
    """
    fabric = launch(options.accelerator, options.devices, 1, options.precision)
    with readable_memory_errors():
        choose_for_blend(fabric, options)


def choose_for_blend(fabric: Fabric, options: BlendOptions) -> None:
    """Predict every fold, write the histograms, and choose the thresholds.

    Raises:
        InputError: runs, images or settings cannot be used.
    """
    plan = decide_on_rank_zero(fabric, lambda: make_plan(options))
    for number, checkpoints in plan.folds.items():
        ids = get_fold(plan.table, number).valid

        def pixels_of(view: View, ids: list[str] = ids) -> Pixels:
            return FileSource(plan.samples, view.clahe).pixels(ids, view.size)

        write_out_of_fold(
            fabric,
            plan.runs,
            checkpoints,
            pixels_of,
            ids,
            plan.folder / f"fold{number}" / OUT_OF_FOLD,
            options.num_workers,
            options.batch_size,
            tta=parse_tta(plan.tta),
        )
        print0(f"fold {number}: {len(ids)} images")
    if fabric.is_global_zero:
        print0(f"\n{format_table(summarise_run(plan.folder))}\n")
        print0(describe_thresholds(choose_thresholds(plan.folder, plan.tta)))
        print0(f"results: {plan.folder}")


def make_plan(options: BlendOptions) -> BlendPlan:
    """Find runs, folds and images, and prepare the folder for the results.

    Raises:
        InputError: something is missing or cannot be used.
    """
    runs = read_runs(options.run, options.weights, "all")
    if len(runs) == 1:
        raise InputError(
            f"--run {options.run[0]}: a blend needs at least two runs. For a single run use "
            "python main.py --mode choose_threshold --run_name RUN"
        )
    tta = options.tta or common_tta(runs)
    table = read_folds(runs[0].folder / "folds.csv")
    for run in runs[1:]:
        _compare_folds(runs[0].folder, table, run.folder, read_folds(run.folder / "folds.csv"))
    folds = _find_folds(runs)
    root = options.dataset_root or runs[0].config.dataset_root
    samples = _find_images(root, runs[0], table)
    folder = results_folder(runs)
    _clear(folder, folds, table)
    add_leaks(folder, [leak for run in runs for leak in read_leaks(run.folder)])
    write_json(
        folder / "blend.json",
        {
            "runs": [{"run": str(run.folder.resolve()), "weight": run.weight} for run in runs],
            "folds": list(folds),
            "tta": tta,
            "dataset_root": root,
        },
    )
    return BlendPlan(runs, table, folds, samples, folder, tta)


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


def _find_images(root: str, run: WeightedRun, table: pd.DataFrame) -> dict[str, Sample]:
    samples = find_samples(root, read_excluded(run.config.exclude)).samples
    missing = [name for name in table["ImageId"] if name not in samples]
    if missing:
        raise InputError(
            f"{root} lacks {len(missing)} images of {run.folder}/folds.csv, the first is "
            f"{missing[0]}; give the folder of the training images with --dataset_root"
        )
    return samples


def _clear(folder: Path, folds: dict[int, list[Checkpoints]], table: pd.DataFrame) -> None:
    """Create the folder with folds.csv, and remove the results of an earlier call."""
    try:
        for number in folds:
            (folder / f"fold{number}").mkdir(parents=True, exist_ok=True)
        for old in (folder / "threshold.json", *finished_folds(folder).values()):
            old.unlink(missing_ok=True)
        remove_leaks(folder)
        write_folds(table, folder / "folds.csv")
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({cause_of(error)})") from error
