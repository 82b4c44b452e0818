"""Recipes against each other: the same folds, the same work, from new weights, at a small size.

    python -m benchmarks.recipes --data DIR --groups patients.csv original_512 winner best
    python -m benchmarks.recipes --data DIR --groups patients.csv best best@loss=bce best@ema=0.999

A recipe is a file of recipes/; behind @ follow settings of it to change, SETTING=VALUE, with ; in
between. Each is trained by train_sfold.py, its folds side by side with an equal part of the cores.
It keeps what is its own (network, stages and their proportions, rates, losses, shares, schedules)
and is scaled in the rest: image sizes, to end at --size where the recipe ends at 512 pixels or
more (one of 256 pixels ends at half of it); epochs, to fill --work; batches, to --batch images. No
encoder is frozen, as none is pretrained.

--work is the work of a fold, counted in training images of --size: one of half the side counts a
quarter, one that is validated a third. With one network equal work is equal time, but for what the
machine does besides; the seconds are measured.

Prints for each recipe, from out-of-fold results: Dice with thresholds from the other folds (not
with a single fold), Dice on positives, empties kept, AUC of telling images with a mask, how far
that is from the first recipe's, seconds; 95 % intervals over patients. A run that is finished is
taken as it is. --plan only says what would be trained.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from benchmarks.scaling import RECIPES, Bounds, read_recipe, scale
from datasets.folds import read_folds
from datasets.siim import find_samples
from datasets.sources.files import FileSource
from utils.config.command_line import load_config
from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.errors import InputError, command
from utils.evaluation.bootstrap import DRAWS, index_groups
from utils.evaluation.image_level import auc
from utils.files import write_json
from utils.parallel import usable_cores
from utils.postprocessing.histograms import Histograms, concatenate
from utils.postprocessing.selection import choose_thresholds
from utils.postprocessing.summary import load_folds


@command
def main(args: list[str] | None = None) -> int:
    """Train what is missing, print the table and write recipes.json; return the exit code."""
    given = _parse(args)
    names = list(dict.fromkeys(given.recipes))
    bounds = _bounds(given)
    configs = {name: _place(scale(read_recipe(name), bounds), name, given) for name in names}
    for config in configs.values():
        print(describe(config))
    if given.plan:
        return 0
    for name, config in configs.items():
        _train(given, name, config)
    first = _results(given, configs[names[0]])
    rows = [_row(name, _results(given, config), first) for name, config in configs.items()]
    print(f"\n{as_table(rows)}")
    write_json(given.out / "recipes.json", rows)
    return 0


def describe(config: Config) -> str:
    """Say in a line what is trained."""
    stages = ", then ".join(
        f"{stage.epochs} epochs at {stage.image_size} px, rate {stage.lr:g}, {stage.loss}, "
        f"{stage.schedule}"
        + (" on positives" if stage.positives_only else "")
        + (f", share {stage.positive_share}" if stage.positive_share else "")
        for stage in build_stages(config)
    )
    return f"{config.run_name}: {config.model_type}: {stages}"


def as_table(rows: list[dict]) -> str:
    """Lay the results out as a table in Markdown."""
    lines = [
        "| recipe | Dice (95 %) | all-empty | on positives | empties kept | masks | AUC (95 %) | "
        "AUC - first (95 %) | s a fold |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["recipe"], *_dice_cells(row), _span(row["auc"]), _span(row["auc_gain"])]
        cells.append(f"{row['seconds']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def auc_gain(
    scores: np.ndarray, others: np.ndarray, positive: np.ndarray, groups: list[str]
) -> list[float]:
    """Return by how much the AUC of `scores` is above that of `others`, and its interval.

    Both are drawn with the same patients, so that what is hard for both does not count.

    Args:
        scores: [N] float, a score of each image.
        others: [N] likewise, of another network for the same images.
        positive: [N] bool, the image has a mask.
        groups: N names, the patient of each image; an empty one is a patient of its own.

    Returns:
        The difference, and its 2.5 and 97.5 percentiles.
    """
    count, group_of = index_groups(groups)
    rng, equal = np.random.default_rng(0), np.full(count, 1 / count)
    weights = [np.ones(len(positive))]
    weights += [rng.multinomial(count, equal)[group_of] for _ in range(DRAWS)]
    gains = [auc(scores, positive, w) - auc(others, positive, w) for w in weights]
    return [gains[0], *np.nanpercentile(gains[1:], (2.5, 97.5)).tolist()]


def _train(given: argparse.Namespace, name: str, config: Config) -> None:
    """Train the folds side by side; what a run said is in NAME.FOLD.txt."""
    folder = _folder(given, config)
    begun = folder / "config.yaml"
    if begun.exists() and replace(load_config(begun), folds=config.folds) != config:
        raise InputError(f"{folder} was trained with other settings; give another --out")
    folds = [n for n in config.fold_numbers() if not (folder / f"fold{n}/oof.npz").exists()]
    if not folds:
        return
    given.out.mkdir(parents=True, exist_ok=True)
    settings = given.out / f"{config.run_name}.yaml"
    config.save(settings)
    threads = str(max(1, usable_cores() // len(folds)))
    runs = []
    for number in folds:
        words = ["--config", str(settings), "--folds", str(number)]
        words += ["--resume", "true"] if any(folder.glob(f"fold{number}/*.pth")) else []
        with open(given.out / f"{config.run_name}.{number}.txt", "a", encoding="utf-8") as said:
            runs.append(
                subprocess.Popen(
                    [sys.executable, "train_sfold.py", *words],
                    cwd=RECIPES.parent,
                    env=os.environ | {"OMP_NUM_THREADS": threads},
                    stdout=said,
                    stderr=said,
                )
            )
    codes = [run.wait() for run in runs]
    if any(codes):
        raise InputError(f"{name} ended with {codes}; read {given.out}/{config.run_name}.*.txt")


def _folder(given: argparse.Namespace, config: Config) -> Path:
    return given.out / config.model_type / config.run_name


def _results(
    given: argparse.Namespace, config: Config
) -> tuple[dict, Histograms, list[str], float]:
    folder = _folder(given, config)
    folds = load_folds(folder)
    if list(folds) != config.fold_numbers():
        raise InputError(
            f"{folder} has folds {list(folds)}; name them by --folds, or another --out"
        )
    pooled = concatenate(list(folds.values()))
    table = read_folds(folder / "folds.csv").set_index("ImageId")
    seconds = [_seconds(folder / f"fold{number}") for number in folds]
    patients = table.loc[pooled.ids, "PatientId"].tolist()
    return choose_thresholds(folder), pooled, patients, sum(seconds) / len(seconds)


def _row(name: str, mine: tuple, first: tuple) -> dict:
    content, pooled, patients, seconds = mine
    gain = auc_gain(pooled.image_scores(), first[1].image_scores(), pooled.positive, patients)
    return {
        "recipe": name,
        "cross_fitted": content["cross_fitted"],
        "auc": [content["auc"]["value"], *content["auc"]["interval"]],
        "auc_gain": gain,
        "seconds": seconds,
    }


def _dice_cells(row: dict) -> list[str]:
    scores = row["cross_fitted"]
    if scores is None:
        return [""] * 5
    shares = [f"{scores[key]:.4f}" for key in ("baseline", "dice_positive", "empty_kept")]
    return [_span([scores["dice"], *scores["interval"]]), *shares, str(scores["predicted"])]


def _seconds(folder: Path) -> float:
    """Return how long a fold took that was trained in one go: from its first line to its end."""
    with open(folder / "log.txt", encoding="utf-8") as file:
        began = datetime.strptime(file.readline()[:19], "%Y-%m-%d %H:%M:%S")
    return (folder / "oof.npz").stat().st_mtime - began.timestamp()


def _span(values: list[float]) -> str:
    value, low, high = values
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def _bounds(given: argparse.Namespace) -> Bounds:
    mask_fractions = FileSource(find_samples(given.data).samples, clahe=True).mask_fractions()
    positives = sum(share > 0 for share in mask_fractions.values())
    learned = 1 - 1 / given.n_splits
    return Bounds(
        given.size,
        given.work,
        given.batch,
        len(mask_fractions) * learned,
        positives * learned,
        len(mask_fractions) / given.n_splits,
    )


def _place(config: Config, name: str, given: argparse.Namespace) -> Config:
    """Say where a scaled recipe reads and writes, and which folds it trains."""
    return replace(
        config,
        n_splits=given.n_splits,
        folds=given.folds,
        groups=str(given.groups.resolve()),
        seed=given.seed,
        num_workers=0,
        run_name=name,
        dataset_root=str(given.data.resolve()),
        model_path=str(given.out.resolve()),
    )


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("recipes", nargs="+", help="names in recipes/, with changes behind @")
    add("--data", type=Path, required=True, help="folder with train_images/ and train_mask/")
    add("--groups", type=Path, required=True, help="csv of ImageId,PatientId")
    add("--out", type=Path, default=Path("checkpoints/recipes"), help="folder of the runs")
    add("--size", type=int, default=256, help="pixels that a recipe of 512 or more ends at (256)")
    add("--work", type=float, default=2600, help="of a fold, in training images (2600)")
    add("--batch", type=int, default=8, help="images per step (8)")
    add("--n_splits", type=int, default=5, help="folds the images are cut into (5)")
    add("--folds", default="0,1", help="folds to train (0,1)")
    add("--seed", type=int, default=1, help="of every run (1)")
    add("--plan", action="store_true", help="only say what would be trained")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
