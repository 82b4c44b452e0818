"""Compare recipes on the same folds with the same work.

    python -m benchmarks.recipes --data DIR --groups patients.csv original_512 winner best
    python -m benchmarks.recipes --data DIR --groups patients.csv best best@loss=bce best@ema=0.999

A recipe is a file in recipes/. Settings after @ override it: SETTING=VALUE, separated by ;. Each
recipe is trained by train_sfold.py, its folds in parallel with an equal share of the cores. It
keeps its stages and their proportions, learning rates, losses, shares of positives and schedules,
and its network unless --model_type gives all of them another. The rest is scaled: image sizes so
that a recipe that ends at 512 pixels or more ends at --size (one that ends at 256 pixels ends at
half of it), epochs to fill --work, and batches to --batch images. Networks are trained from
scratch, and no encoder is frozen, unless --pretrained is given.

--work is the work per fold, in training images of --size: an image of half the side counts as a
quarter, a validation image as a third. With the same network, equal work is equal time on an idle
machine; the time is measured too.

Prints for each recipe, from out-of-fold results: cross-fitted Dice (needs two folds; the family of
rules and the rule are chosen on the other folds) with its gain over no masks and over the first
row, Dice on positives, empties kept, image-level AUC with its gain, and seconds; with 95 %
intervals over patients. The seconds of a fold end with its prediction, and include the pause if it
was stopped and resumed. --peer adds the results of benchmarks.plain_smp. A finished run is not
trained again. --plan only prints what would be trained.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from benchmarks.comparison import Scored, add_fold_flags, as_table, compare, read_scored
from benchmarks.scaling import RECIPES, Bounds, read_recipe, scale
from datasets.folds import read_folds
from datasets.patients import read_patients
from datasets.siim import find_samples
from datasets.sources.files import FileSource
from utils.commands.paths import file_to_read, folder_to_write
from utils.config.command_line import load_config
from utils.config.layout import list_checkpoints
from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.console import open_parser
from utils.errors import InputError, command
from utils.files import write_json
from utils.parallel import usable_cores
from utils.postprocessing.families import fit_rules
from utils.postprocessing.histograms import align_folds, concatenate
from utils.postprocessing.selection import apply_rules
from utils.postprocessing.summary import load_folds

_NOT_COMPARED = ("folds", "memory_format", "input_mean", "input_std")
"""Settings of a finished run that need not be those asked for; so is precision, for auto."""


@command
def main(args: list[str] | None = None) -> int:
    """Train what is missing, print the table and write recipes.json; return the exit code."""
    given = _parse(args)
    # What is read after the trainings must not fail then.
    read_patients(given.groups)
    names = list(dict.fromkeys(given.recipes))
    _check_peers(given.peer, names)
    results = {path.stem: read_scored(path) for path in given.peer}
    bounds = _bounds(given)
    configs = {name: _as_run(scale(read_recipe(name), bounds), name, given) for name in names}
    for config in configs.values():
        print(describe(config))
    if given.plan:
        return 0
    _train_missing(given, list(configs.values()))
    results |= {name: _results(given, config) for name, config in configs.items()}
    first = next(iter(results.values()))
    rows = [compare(name, scored, first) for name, scored in results.items()]
    print(f"\n{as_table(rows)}")
    write_json(given.out / "recipes.json", rows)
    return 0


def _check_peers(paths: list[Path], names: list[str]) -> None:
    """Refuse a peer whose row would have the name of another row."""
    taken = set(names)
    for path in paths:
        if path.stem in taken:
            raise InputError(
                f"--peer {path}: another row of the table is named {path.stem!r}; rename the file"
            )
        taken.add(path.stem)


def describe(config: Config) -> str:
    """Describe the training in one line."""
    stages = ", then ".join(
        f"{stage.epochs} epochs at {stage.image_size} px, lr {stage.lr:g}, {stage.loss}, "
        f"{stage.schedule}"
        + (" on positives" if stage.positives_only else "")
        + (f", positive share {stage.positive_share}" if stage.positive_share else "")
        + (f", {stage.freeze_epochs} frozen" if stage.freeze_epochs else "")
        for stage in build_stages(config)
    )
    return f"{config.run_name}: {config.model_type}: {stages}"


def _train_missing(given: argparse.Namespace, configs: list[Config]) -> None:
    """Train the unfinished folds, --jobs at a time, with the output of each in NAME.FOLD.txt."""
    work = [(config, number) for config in configs for number in _unfinished(given, config)]
    if not work:
        return
    given.out.mkdir(parents=True, exist_ok=True)
    for config in configs:
        config.save(given.out / f"{config.run_name}.yaml")
    with ThreadPoolExecutor(given.jobs or len(configs[0].fold_numbers())) as pool:
        codes = list(pool.map(lambda item: _train(given, *item), work))
    failed = [f"{c.run_name}.{n}.txt" for (c, n), code in zip(work, codes, strict=True) if code]
    if failed:
        raise InputError(f"{len(failed)} trainings failed; see in {given.out}: {', '.join(failed)}")


def _unfinished(given: argparse.Namespace, config: Config) -> list[int]:
    folder = _folder(given, config)
    saved = folder / "config.yaml"
    if saved.exists() and _as_given(load_config(saved), config) != config:
        raise InputError(f"{folder} was trained with other settings; choose another --out")
    return [n for n in config.fold_numbers() if not (folder / f"fold{n}/oof.npz").exists()]


def _as_given(saved: Config, config: Config) -> Config:
    """Return saved settings with those of `config` that a run may change or resolves itself."""
    names = (*_NOT_COMPARED, *(["precision"] if config.precision == "auto" else []))
    return replace(saved, **{name: getattr(config, name) for name in names})


def _train(given: argparse.Namespace, config: Config, number: int) -> int:
    """Train or resume one fold; return the exit code."""
    words = ["--config", str(given.out / f"{config.run_name}.yaml"), "--folds", str(number)]
    started = list_checkpoints(_folder(given, config) / f"fold{number}")
    words += ["--resume", "true"] if started else []
    threads = max(1, usable_cores() // (given.jobs or len(config.fold_numbers())))
    with open(given.out / f"{config.run_name}.{number}.txt", "a", encoding="utf-8") as output:
        return subprocess.call(
            [sys.executable, "train_sfold.py", *words],
            cwd=RECIPES.parent,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdout=output,
            stderr=output,
        )


def _folder(given: argparse.Namespace, config: Config) -> Path:
    return given.out / config.model_type / config.run_name


def _results(given: argparse.Namespace, config: Config) -> Scored:
    """Score the validation images, each by the rule that was chosen on the other folds."""
    folder = _folder(given, config)
    folds = load_folds(folder)
    if list(folds) != config.fold_numbers():
        raise InputError(
            f"{folder} has folds {list(folds)}; give them with --folds, or choose another --out"
        )
    folds = dict(zip(folds, align_folds(list(folds.values())), strict=True))
    pooled = concatenate(list(folds.values()))
    table = read_folds(folder / "folds.csv").set_index("ImageId")
    patients = table.loc[pooled.ids, "PatientId"].tolist()
    rules = fit_rules(folds, patients).cross_fitted
    fitted = apply_rules(folds, rules) if rules else None
    seconds = [np.full(len(fold.ids), _seconds(folder, n)) for n, fold in folds.items()]
    unknown = np.full(len(pooled.ids), np.nan)
    order = np.argsort(pooled.ids)
    return Scored(
        pooled.ids[order].tolist(),
        [patients[i] for i in order],
        pooled.positive[order],
        (fitted.dice if fitted else unknown)[order],
        (fitted.predicted if fitted else unknown > 0)[order],
        pooled.image_scores()[order],
        np.concatenate(seconds)[order],
    )


def _seconds(folder: Path, number: int) -> float:
    """Return the time from the first log line of a fold to its oof.npz, with pauses."""
    fold = folder / f"fold{number}"
    with open(fold / "log.txt", encoding="utf-8") as file:
        started = datetime.strptime(file.readline()[:19], "%Y-%m-%d %H:%M:%S")
    return (fold / "oof.npz").stat().st_mtime - started.timestamp()


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
        given.pretrained,
    )


def _as_run(config: Config, name: str, given: argparse.Namespace) -> Config:
    """Set the network, run name, paths, folds and seed of a scaled recipe."""
    own = given.model_type is None or "@model_type=" in name or ";model_type=" in name
    return replace(
        config,
        model_type=config.model_type if own else given.model_type,
        n_splits=given.n_splits,
        folds=given.folds,
        groups=str(given.groups.resolve()),
        seed=given.seed,
        num_workers=given.num_workers,
        precision=given.precision,
        run_name=name,
        dataset_root=str(given.data.resolve()),
        model_path=str(given.out.resolve()),
    )


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m benchmarks.recipes", __doc__)
    add = parser.add_argument
    add("recipes", nargs="+", help="names in recipes/, with optional changes after @")
    add_fold_flags(add)
    add(
        "--out",
        type=folder_to_write,
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
    add("--model_type", help="network of every recipe (default: its own)")
    add("--pretrained", action="store_true", help="start encoders from ImageNet weights")
    add("--batch", type=int, default=8, help="images per step (default: 8)")
    add("--seed", type=int, default=1, help="seed of every run (default: 1)")
    add("--precision", default="auto", help="floating-point precision (default: auto)")
    add("--jobs", type=int, help="folds to train at the same time (default: all of a recipe)")
    add("--num_workers", type=int, default=0, help="loader processes of each (default: 0)")
    add(
        "--peer",
        type=file_to_read("--peer", "a csv that benchmarks.plain_smp wrote"),
        action="append",
        default=[],
        help="csv of benchmarks.plain_smp to show above the recipes",
    )
    add("--plan", action="store_true", help="only print what would be trained")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
