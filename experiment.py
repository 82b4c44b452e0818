"""A run: decide once, cut the folds, hand each to a solver, sum up."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from datasets.exclude import read_excluded
from datasets.folds import describe_leakage, fold_of, read_folds, read_patients, split, write_folds
from datasets.loaders import check_dealing
from datasets.siim import Found, Sample, Source, find_samples
from datasets.sources.cache import Cache
from datasets.sources.files import Files
from models import build_model
from models.sizes import check_size
from solver import Solver
from solver_freeze import FreezeSolver
from utils.config.settings import Config
from utils.console import say
from utils.distributed import decide_once, launch
from utils.errors import InputError
from utils.postprocessing.selection import choose_thresholds, describe
from utils.postprocessing.summary import as_table, summarise
from utils.training.run_folder import begin_run, open_run


@dataclass(frozen=True)
class Plan:
    """What is decided once and handed to every process.

    Attributes:
        config: settings, with a run name and a seed.
        folder: the run's folder.
        table: the table of folds.csv.
        source: the pixels of every image.
        shares: the share of mask pixels of every image.
        has_encoder: the network has an encoder that can be held frozen.
    """

    config: Config
    folder: Path
    table: pd.DataFrame
    source: Source
    shares: dict[str, float]
    has_encoder: bool


def run(
    config: Config,
    given: frozenset[str],
    stratified: bool,
    rate_of: Callable[[Config], float],
) -> int:
    """Do what --mode asks for: train folds and sum up, or only choose the thresholds of a run.

    Args:
        config: settings of this call.
        given: names of the settings that were given rather than left at their defaults.
        stratified: cut folds with equal shares of positives.
        rate_of: gives stage 1's learning rate for settings whose seed is decided.

    Returns:
        The exit code, 0.

    Raises:
        InputError: data, settings or an earlier run's files do not allow it.
    """
    if config.mode == "choose_threshold":
        _, folder = open_run(config, given)
        say(describe(choose_thresholds(folder)))
        return 0
    fabric = launch(
        config.accelerator,
        config.devices,
        config.num_nodes,
        config.precision,
        config.deterministic,
    )
    plan = decide_once(fabric, lambda: _plan(config, given, stratified, fabric.world_size))
    stages = plan.config.stages(rate_of(plan.config))
    solver_class = _solver_class(plan.config, plan.has_encoder)
    for number in plan.config.fold_numbers():
        fold, folder = fold_of(plan.table, number), plan.folder / f"fold{number}"
        prior = sum(plan.shares[name] for name in fold.train) / len(fold.train)
        solver_class(fabric, plan.config, stages, fold, plan.source, folder, prior).fit()
    if fabric.is_global_zero:
        _conclude(plan.folder)
    return 0


def _plan(config: Config, given: frozenset[str], stratified: bool, processes: int) -> Plan:
    config, folder = open_run(config, given)
    found = find_samples(config.dataset_root, read_excluded(config.exclude))
    _say_left_out(found)
    source = _open_source(config, found.samples)
    shares = source.shares()
    table = _cut_folds(config, shares, stratified)
    _compare_folds(table, folder / "folds.csv")
    for number in config.fold_numbers():
        _check_free(folder / f"fold{number}", config)
        for stage in config.stages(config.lr):
            check_dealing(stage, fold_of(table, number), processes)
    network = _try_network(config, is_new=not (folder / "config.yaml").exists())
    source.build()
    config = begin_run(config, given, folder)
    write_folds(table, folder / "folds.csv")
    for number in config.fold_numbers():
        (folder / f"fold{number}").mkdir(exist_ok=True)
    say(f"run {folder}, seed {config.seed}")
    return Plan(config, folder, table, source, shares, network.encoder is not None)


def _say_left_out(found: Found) -> None:
    for ids, what in (
        (found.unannotated, "images without a mask are left out"),
        (found.without_image, "masks without an image are left out"),
    ):
        if ids:
            say(f"{len(ids):,} {what}, the first {ids[0]}")


def _open_source(config: Config, samples: dict[str, Sample]) -> Source:
    if not config.cache:
        return Files(samples, config.clahe)
    sizes = sorted({stage.image_size for stage in config.stages(config.lr)})
    return Cache(samples, config.clahe, sizes, config.cache_dir or f"{config.dataset_root}/cache")


def _cut_folds(config: Config, shares: dict[str, float], stratified: bool) -> pd.DataFrame:
    known = Path(config.dataset_root) / "patients.csv"
    patients = read_patients(config.groups or known) if config.groups or known.exists() else None
    positive = {name: share > 0 for name, share in shares.items()}
    table = split(positive, config.n_splits, stratified, patients, grouped=bool(config.groups))
    say(f"{len(table)} images, {sum(positive.values())} positive; {describe_leakage(table)}")
    return table


def _compare_folds(table: pd.DataFrame, path: Path) -> None:
    if path.exists() and not read_folds(path).equals(table):
        raise InputError(
            f"{path} holds other folds than this call makes: other images, masks or patients, "
            "another --exclude list, or the run was begun by the other of main.py and "
            "train_sfold.py"
        )


def _check_free(folder: Path, config: Config) -> None:
    """Refuse a fold whose checkpoints training would overwrite, or whose stage 1 is missing."""
    if config.mode == "train_stage2" and not (folder / "stage1_best.pth").exists():
        raise InputError(
            f"--mode train_stage2 looked for {folder}/stage1_best.pth; train stage 1 of this fold "
            "with --mode train"
        )
    written = "stage[23]_*.pth" if config.mode == "train_stage2" else "*.pth"
    if not config.resume and any(folder.glob(written)):
        raise InputError(
            f"{folder} already has checkpoints; go on with --resume true, or choose other --folds "
            "or another --run_name"
        )


def _try_network(config: Config, is_new: bool) -> nn.Module:
    """Build the network once, so that a wrong name, weight or size ends a run before it begins.

    Only a new run starts from pretrained weights; they are then fetched here, by one process.
    """
    network = build_model(
        config.model_type,
        pretrained=config.pretrained and is_new,
        encoder_weights=config.encoder_weights if is_new else None,
        t=config.t,
        presence_head=config.presence_head,
    )
    for stage in config.stages(config.lr):
        check_size(network, stage.image_size, stage.image_size)
    return network


def _solver_class(config: Config, has_encoder: bool) -> type[Solver]:
    if config.epoch_stage1_freeze == 0:
        return Solver
    if not has_encoder:
        say(f"warning: {config.model_type} has no encoder to freeze; --epoch_stage1_freeze is idle")
        return Solver
    if not config.pretrained and config.encoder_weights is None:
        say("warning: the encoder that is held frozen has no pretrained weights")
    return FreezeSolver


def _conclude(folder: Path) -> None:
    summary = summarise(folder)
    say(f"\n{as_table(summary)}\n")
    say(describe(choose_thresholds(folder)))
    if not summary["pooled"]["predicted"]:
        say("no mask was predicted: the best that the grid of thresholds found is to stay silent")
    say(f"results: {folder}\nwatch:   tensorboard --logdir {folder}")
