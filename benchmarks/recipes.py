"""Compare recipes on the same folds with the same work, from scratch and at a small size.

    python -m benchmarks.recipes --data DIR --groups patients.csv original_512 winner best
    python -m benchmarks.recipes --data DIR --groups patients.csv best best@loss=bce best@ema=0.999

A recipe is a file in recipes/. Settings after @ override it: SETTING=VALUE, separated by ;. Each
recipe is trained by train_sfold.py, its folds in parallel with an equal share of the cores. It
keeps its network, stages and their proportions, learning rates, losses, shares of positives and
schedules. The rest is scaled: image sizes so that a recipe that ends at 512 pixels or more ends at
--size (one that ends at 256 pixels ends at half of it), epochs to fill --work, and batches to
--batch images. No encoder is frozen, since none is pretrained.

--work is the work per fold, in training images of --size: an image of half the side counts as a
quarter, a validation image as a third. With the same network, equal work is equal time on an idle
machine; the time is measured too.

Prints for each recipe, from out-of-fold results: cross-fitted Dice (needs two folds; the family of
rules and the rule are chosen on the other folds), Dice on positives, empties kept, image-level AUC
and its difference from that of the first recipe, and seconds; with 95 % intervals over patients. A
finished run is not trained again. --plan only prints what would be trained.
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
from utils.config.layout import list_checkpoints
from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.console import open_parser
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
    configs = {name: _as_run(scale(read_recipe(name), bounds), name, given) for name in names}
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
    """Describe the training in one line."""
    stages = ", then ".join(
        f"{stage.epochs} epochs at {stage.image_size} px, lr {stage.lr:g}, {stage.loss}, "
        f"{stage.schedule}"
        + (" on positives" if stage.positives_only else "")
        + (f", positive share {stage.positive_share}" if stage.positive_share else "")
        for stage in build_stages(config)
    )
    return f"{config.run_name}: {config.model_type}: {stages}"


def as_table(rows: list[dict]) -> str:
    """Format the results as a Markdown table."""
    lines = [
        "| recipe | Dice (95 %) | all-empty | on positives | empties kept | masks | AUC (95 %) | "
        "AUC - first (95 %) | s per fold |",
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
    """Return by how much the AUC of `scores` exceeds that of `others`, with its interval.

    Both AUCs use the same bootstrap draws of patients, so that images hard for both cancel out.

    Args:
        scores: [N] float, score of each image.
        others: [N] float, scores of another network for the same images.
        positive: [N] bool, the image has a mask.
        groups: N names, the patient of each image; an image with an empty name is its own patient.

    Returns:
        The difference, and its 2.5th and 97.5th percentiles.
    """
    count, group_of = index_groups(groups)
    rng, equal = np.random.default_rng(0), np.full(count, 1 / count)
    weights = [np.ones(len(positive))]
    weights += [rng.multinomial(count, equal)[group_of] for _ in range(DRAWS)]
    gains = [auc(scores, positive, w) - auc(others, positive, w) for w in weights]
    return [gains[0], *np.nanpercentile(gains[1:], (2.5, 97.5)).tolist()]


def _train(given: argparse.Namespace, name: str, config: Config) -> None:
    """Train the unfinished folds in parallel, with the output of each in NAME.FOLD.txt."""
    folder = _folder(given, config)
    saved = folder / "config.yaml"
    if saved.exists() and replace(load_config(saved), folds=config.folds) != config:
        raise InputError(f"{folder} was trained with other settings; choose another --out")
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
        words += ["--resume", "true"] if list_checkpoints(folder / f"fold{number}") else []
        with open(given.out / f"{config.run_name}.{number}.txt", "a", encoding="utf-8") as output:
            runs.append(
                subprocess.Popen(
                    [sys.executable, "train_sfold.py", *words],
                    cwd=RECIPES.parent,
                    env=os.environ | {"OMP_NUM_THREADS": threads},
                    stdout=output,
                    stderr=output,
                )
            )
    codes = [run.wait() for run in runs]
    if any(codes):
        raise InputError(
            f"{name} ended with exit codes {codes}; see {given.out}/{config.run_name}.*.txt"
        )


def _folder(given: argparse.Namespace, config: Config) -> Path:
    return given.out / config.model_type / config.run_name


def _results(
    given: argparse.Namespace, config: Config
) -> tuple[dict, Histograms, list[str], float]:
    folder = _folder(given, config)
    folds = load_folds(folder)
    if list(folds) != config.fold_numbers():
        raise InputError(
            f"{folder} has folds {list(folds)}; give them with --folds, or choose another --out"
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
    """Return the duration of an uninterrupted fold, from its first log line to oof.npz."""
    with open(folder / "log.txt", encoding="utf-8") as file:
        started = datetime.strptime(file.readline()[:19], "%Y-%m-%d %H:%M:%S")
    return (folder / "oof.npz").stat().st_mtime - started.timestamp()


def _span(values: list[float]) -> str:
    value, low, high = values
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def _bounds(given: argparse.Namespace) -> Bounds:
    mask_fractions = FileSource(find_samples(given.data).samples, clahe=True).mask_fractions()
    positives = sum(share > 0 for share in mask_fractions.values())
    train_share = 1 - 1 / given.n_splits
    return Bounds(
        given.size,
        given.work,
        given.batch,
        len(mask_fractions) * train_share,
        positives * train_share,
        len(mask_fractions) / given.n_splits,
    )


def _as_run(config: Config, name: str, given: argparse.Namespace) -> Config:
    """Set the run name, paths, folds and seed of a scaled recipe."""
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
    parser = open_parser("python -m benchmarks.recipes", __doc__)
    add = parser.add_argument
    add("recipes", nargs="+", help="names in recipes/, with optional changes after @")
    add("--data", type=Path, required=True, help="folder with train_images/ and train_mask/")
    add("--groups", type=Path, required=True, help="csv with the columns ImageId and PatientId")
    add(
        "--out",
        type=Path,
        default=Path("checkpoints/recipes"),
        help="folder for runs and results (default: checkpoints/recipes)",
    )
    add(
        "--size",
        type=int,
        default=256,
        help="final image size of a recipe of 512 pixels (default: 256)",
    )
    add(
        "--work", type=float, default=2600, help="work per fold, in training images (default: 2600)"
    )
    add("--batch", type=int, default=8, help="images per step (default: 8)")
    add("--n_splits", type=int, default=5, help="number of folds (default: 5)")
    add("--folds", default="0,1", help="folds to train (default: 0,1)")
    add("--seed", type=int, default=1, help="seed of every run (default: 1)")
    add("--plan", action="store_true", help="only print what would be trained")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
