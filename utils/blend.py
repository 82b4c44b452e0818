"""Choose the thresholds of a blend of runs, on images that none of its networks has learned from.

    python -m utils.blend --run checkpoints/unet_resnet34/A --run checkpoints/linknet/B
    python -m utils.blend --run checkpoints/unet_resnet34/A --run checkpoints/linknet/B \\
        --weights 0.6,0.4 --tta hflip

Every image is predicted by those networks of each run that were not trained on it, as predict.py
predicts new ones: each run at its own size and with its own preprocessing, its maps brought to the
size of the image and averaged there with the weights. So all runs have to be cut into the same
folds; a fold that one of them has not finished is left out. Expect the time of a prediction of all
training images by one fold of each run.

The images are those of training (DATASET_ROOT, or the first run's). The results appear in a folder
of blends/ beside the folders of networks, whose name follows from runs and weights, so that
predict.py finds its threshold.json by the same --run and --weights:

    fold0/oof.npz ...              what was predicted, see README
    threshold.json, threshold.png  the thresholds and what they reach
    summary.json, folds.csv        the folds
    blend.json                     runs, weights and settings that it was made with

Give predict.py the same --tta: thresholds are of what they were chosen on, and it says where that
differs. Exit code: 0; 2 where something cannot be used.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from lightning_fabric import Fabric

from datasets.exclude import read_excluded
from datasets.folds import fold_of, read_folds, write_folds
from datasets.siim import Sample, find_samples
from datasets.sources.files import Files
from utils.config.prediction import RunOptions, open_parser, parse_settings
from utils.console import say
from utils.distributed import decide_once, launch
from utils.errors import InputError, command
from utils.files import write_json
from utils.inference.held_out import predict_held_out
from utils.inference.runs import (
    Checkpoints,
    Member,
    common_batch_size,
    find_checkpoints,
    open_blend,
    read_members,
    results_folder,
)
from utils.memory import explaining_full_memory
from utils.postprocessing.selection import choose_thresholds, describe
from utils.postprocessing.summary import as_table, summarise


@dataclass(frozen=True, kw_only=True)
class BlendOptions(RunOptions):
    """Settings of the choice of a blend's thresholds."""

    dataset_root: str | None = None
    """Folder with train_images/ and train_mask/; that of the first run if not given."""


class Plan(NamedTuple):
    """What is decided once and handed to every process.

    Attributes:
        members: the runs.
        table: the table of folds.csv.
        folds: for each fold the checkpoints of each run.
        samples: the files of all images, by id.
        folder: where the results go.
    """

    members: list[Member]
    table: pd.DataFrame
    folds: dict[int, list[Checkpoints]]
    samples: dict[str, Sample]
    folder: Path


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = open_parser(__doc__, prog="python -m utils.blend")
    options = BlendOptions(**parse_settings(parser, args, BlendOptions))
    fabric = launch(options.accelerator, options.devices, 1, options.precision)
    with explaining_full_memory():
        choose_for_blend(fabric, options)
    return 0


def choose_for_blend(fabric: Fabric, options: BlendOptions) -> None:
    """Predict every fold, write what was found, and choose the thresholds.

    Raises:
        InputError: runs, images or settings cannot be used.
    """
    plan = decide_once(fabric, lambda: make_plan(options))
    for number, checkpoints in plan.folds.items():
        predict_fold(fabric, options, plan, number, checkpoints)
    if fabric.is_global_zero:
        say(f"\n{as_table(summarise(plan.folder))}\n")
        say(describe(choose_thresholds(plan.folder, options.tta)))
        say(f"results: {plan.folder}")


def predict_fold(
    fabric: Fabric,
    options: BlendOptions,
    plan: Plan,
    number: int,
    checkpoints: Sequence[Checkpoints],
) -> None:
    """Predict the validation images of one fold and write its oof.npz."""
    ids = fold_of(plan.table, number).valid
    blend = open_blend(fabric, plan.members, checkpoints, mirror=options.tta == "hflip")
    pixels = [Files(plan.samples, view.clahe).pixels(ids, view.size) for view in blend.views]
    batch_size = options.batch_size or common_batch_size(plan.members)
    histograms = predict_held_out(fabric, blend, pixels, ids, batch_size, options.num_workers)
    if fabric.is_global_zero:
        histograms.save(plan.folder / f"fold{number}" / "oof.npz")
        say(f"fold {number}: {len(ids)} images")


def make_plan(options: BlendOptions) -> Plan:
    """Find runs, folds and images, and clear the folder of the results.

    Raises:
        InputError: something is missing or cannot be used.
    """
    members = read_members(options.run, options.weights, "all")
    if len(members) == 1:
        raise InputError(
            f"--run {options.run[0]}: a blend has at least two runs. The thresholds of one are "
            "chosen by python main.py --mode choose_threshold --run_name RUN"
        )
    tables = {member.run: read_folds(member.run / "folds.csv") for member in members}
    table = tables[members[0].run]
    for run, other in tables.items():
        _compare_folds(members[0].run, table, run, other)
    folds = _find_folds(members)
    root = options.dataset_root or members[0].config.dataset_root
    samples = _find_images(root, members[0], table)
    folder = results_folder(members)
    _clear(folder, folds, table)
    write_json(
        folder / "blend.json",
        {
            "runs": [{"run": str(m.run.resolve()), "weight": m.weight} for m in members],
            "folds": list(folds),
            "tta": options.tta,
            "dataset_root": root,
        },
    )
    return Plan(members, table, folds, samples, folder)


def _compare_folds(run: Path, table: pd.DataFrame, other_run: Path, other: pd.DataFrame) -> None:
    """Refuse runs that put an image into different folds: one would have learned from it."""
    places, others = (dict(zip(t["ImageId"], t["fold"], strict=True)) for t in (table, other))
    for name in sorted(places.keys() | others.keys()):
        if places.get(name) != others.get(name):
            here, there = (
                f"in fold {where[name]}" if name in where else "in no fold"
                for where in (places, others)
            )
            raise InputError(
                f"image {name} is {here} of {run} but {there} of {other_run}. The thresholds of a "
                "blend need runs with the same folds: the same images, script, --n_splits, "
                "--groups and --exclude. Without them, give thresholds to predict.py by flags"
            )


def _find_folds(members: Sequence[Member]) -> dict[int, list[Checkpoints]]:
    """Find the checkpoints of every fold that all runs have finished, and say which have not."""
    folds = {}
    for number in members[0].config.fold_numbers():
        unfinished = [m for m in members if not (m.run / f"fold{number}" / "oof.npz").exists()]
        if unfinished:
            say(f"fold {number} is left out: {unfinished[0].run} has not finished it")
            continue
        folds[number] = [
            find_checkpoints(m.run, replace(m.config, folds=number), "best") for m in members
        ]
    if not folds:
        raise InputError("there is no fold that all runs have finished; train one in each")
    return folds


def _find_images(root: str, member: Member, table: pd.DataFrame) -> dict[str, Sample]:
    samples = find_samples(root, read_excluded(member.config.exclude)).samples
    missing = [name for name in table["ImageId"] if name not in samples]
    if missing:
        raise InputError(
            f"{root} lacks {len(missing)} images of {member.run}/folds.csv, first {missing[0]}; "
            "give the folder that the runs were trained on with --dataset_root"
        )
    return samples


def _clear(folder: Path, folds: dict[int, list[Checkpoints]], table: pd.DataFrame) -> None:
    """Make the folder with folds.csv, without what an earlier call has left."""
    try:
        for number in folds:
            (folder / f"fold{number}").mkdir(parents=True, exist_ok=True)
        for old in (folder / "threshold.json", *folder.glob("fold*/oof.npz")):
            old.unlink(missing_ok=True)
        write_folds(table, folder / "folds.csv")
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
