"""A run: plan it on rank 0, train every fold with a solver, summarise the results."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from lightning_fabric import Fabric
from torch import nn

from datasets.folds import (
    describe_leakage,
    get_fold,
    make_folds,
    shared_patients,
)
from datasets.loaders import augmented_size, check_batch_split, check_positives
from datasets.patients import find_patients
from datasets.siim import find_samples, read_excluded
from datasets.sources.base import PixelSource, Sample
from datasets.sources.cache import CacheSource
from datasets.sources.files import FileSource
from models.build import build_model
from models.interface import encoder_of
from models.sizes import check_scales, check_square_sizes
from models.trial import check_single_images
from solver import Solver
from solver_freeze import FreezeSolver
from utils.config.checks import describe_unused
from utils.config.layout import find_starts
from utils.config.settings import Config
from utils.config.stages import Stage, build_stages, mask_stage
from utils.config.tta import parse_tta
from utils.console import print0
from utils.distributed import decide_on_rank_zero, launch, resolve_memory_format
from utils.errors import InputError, code_for_all
from utils.files import check_writable
from utils.postprocessing.leakage import add_leaks, describe_leak, find_leak
from utils.postprocessing.selection import choose_thresholds, describe_thresholds
from utils.postprocessing.summary import format_table, summarise_run
from utils.report.writing import ReportOptions, try_report
from utils.signals import EXIT_RETRY
from utils.training.initial import (
    check_start,
    find_start_leak,
    new_folds,
    set_normalisation,
)
from utils.training.run_data import compare_bits, compare_files, compare_folds, record_data
from utils.training.run_folder import (
    check_fold,
    check_precision,
    claim_fold,
    create_run,
    hold_run,
    is_finished,
    lock_fold,
    make_folder,
    open_run,
    settle_precision,
)


@dataclass(frozen=True)
class RunPlan:
    """What rank 0 decides and broadcasts.

    Attributes:
        config: settings, with a run name and a seed.
        folder: the run's folder.
        table: the content of folds.csv.
        source: the pixels of every image.
        mask_fractions: fraction of mask pixels of each image, by id.
        has_encoder: whether the network has an encoder that can be frozen.
        starts: the checkpoints that folds start from, by fold; those of --init_from.
    """

    config: Config
    folder: Path
    table: pd.DataFrame
    source: PixelSource
    mask_fractions: dict[str, float]
    has_encoder: bool
    starts: dict[int, Path]


def run(
    config: Config,
    given: frozenset[str],
    stratified: bool,
    choose_lr: Callable[[Config], float],
) -> int:
    """Execute --mode: train folds and summarise, or only choose the thresholds of a run.

    Args:
        config: settings of this call.
        given: names of the settings that were given rather than left at their defaults.
        stratified: balance the share of positives over the folds.
        choose_lr: returns the learning rate of stage 1, given settings with a seed.

    Returns:
        The exit code: 0, or on rank 0 `EXIT_RETRY` if a fold is still being trained elsewhere.

    Raises:
        InputError: data, settings or the files of an earlier run cannot be used.
    """
    if config.mode == "choose_threshold":
        config, folder = open_run(config, given)
        _print_unused(config, given)
        check_writable(folder)
        with hold_run(folder):
            chosen = choose_thresholds(folder, config.tta)
        print0(describe_thresholds(chosen))
        try_report(folder, _report_options(config))
        return 0
    config = settle_precision(config, given)
    fabric = launch(
        config.accelerator,
        config.devices,
        config.num_nodes,
        config.precision,
        config.deterministic,
    )
    plan = decide_on_rank_zero(fabric, lambda: _make_plan(config, given, stratified, fabric))
    check_precision(config, plan.config, plan.folder)
    stages = build_stages(plan.config, choose_lr(plan.config))
    folds = plan.config.fold_numbers()
    trained = [number for number in folds if _train_fold(fabric, plan, stages, number)]
    finished = decide_on_rank_zero(
        fabric, lambda: all(is_finished(plan.folder / f"fold{number}") for number in folds)
    )
    if trained and fabric.is_global_zero:
        _check_finished(plan.folder, trained)
        with hold_run(plan.folder):
            _summarise(plan.folder, plan.config.tta)
        try_report(plan.folder, _report_options(plan.config), fabric)
    return 0 if finished else code_for_all(EXIT_RETRY)


def _train_fold(fabric: Fabric, plan: RunPlan, stages: tuple[Stage, ...], number: int) -> bool:
    """Train a fold unless another process trains it; return whether this process has."""
    folder = plan.folder / f"fold{number}"
    lock = lock_fold(folder)
    owner = decide_on_rank_zero(fabric, lambda: claim_fold(lock, folder, plan.config))
    if owner is not None:
        print0(f"fold {number} is left out: it is being trained by {owner}")
        return False
    fold = get_fold(plan.table, number)
    prior = sum(plan.mask_fractions[name] for name in fold.train) / len(fold.train)
    solver_class = _solver_class(plan.config, plan.has_encoder)
    start = plan.starts.get(number)
    try:
        solver_class(fabric, plan.config, stages, fold, plan.source, folder, prior, start).fit()
    finally:
        lock.release()
    return True


def _make_plan(config: Config, given: frozenset[str], stratified: bool, fabric: Fabric) -> RunPlan:
    """Check what was asked for, decide what is left open, and only then create the run."""
    is_named = config.run_name is not None
    config, folder = open_run(config, given)
    # Until a run without a name is created, its folder may become that of another run.
    earlier = folder if is_named else None
    is_new = not (folder / "config.yaml").exists()
    _print_unused(config, given)
    check_writable(folder)
    samples = _find_images(config)
    # Fails fast: reading the masks takes time, and nothing has been written yet.
    network = _try_network(config, is_new)
    _check_batch_sizes(network, config, fabric.world_size)
    _compare_images(config, samples, earlier)
    starts = _find_starts(config, earlier)
    if is_new:
        config = _resolve(config, starts, fabric)
    for start in dict.fromkeys(starts.values()):
        check_start(network, start, config)
    source = _open_source(config, samples)
    mask_fractions = source.mask_fractions()
    table = _make_folds(config, mask_fractions, stratified)
    _check_folds(config, table, earlier, fabric.world_size)
    leaks = _find_leaks(config, table, starts)
    source.build()
    folder = make_folder(folder, is_named)
    config = _create(config, given, folder, table, samples, leaks)
    print0(f"run {folder}, seed {config.seed}")
    has_encoder = encoder_of(network) is not None
    return RunPlan(config, folder, table, source, mask_fractions, has_encoder, starts)


def _find_images(config: Config) -> dict[str, Sample]:
    found = find_samples(config.dataset_root, read_excluded(config.exclude))
    for ids, what in (
        (found.unannotated, "images without a mask are left out"),
        (found.without_image, "masks without an image are left out"),
    ):
        if ids:
            print0(f"{len(ids):,} {what}, the first {ids[0]}")
    return found.samples


def _compare_images(config: Config, samples: dict[str, Sample], earlier: Path | None) -> None:
    if earlier is not None:
        compare_bits(earlier, config.dataset_root)
        compare_files(earlier, samples)


def _find_starts(config: Config, earlier: Path | None) -> dict[int, Path]:
    folds = config.fold_numbers() if earlier is None else new_folds(config, earlier)
    return find_starts(config.init_from, folds)


def _resolve(config: Config, starts: dict[int, Path], fabric: Fabric) -> Config:
    """Return the settings of a new run, with those that depend on the device and the weights."""
    memory_format = resolve_memory_format(config.memory_format, fabric)
    return set_normalisation(replace(config, memory_format=memory_format), starts)


def _check_folds(config: Config, table: pd.DataFrame, earlier: Path | None, processes: int) -> None:
    """Refuse folds that cannot be trained, or that differ from those of the earlier run."""
    if earlier is not None:
        compare_folds(earlier, table)
    for number in config.fold_numbers():
        if earlier is not None:
            check_fold(earlier / f"fold{number}", config)
        fold = get_fold(table, number)
        if not config.allow_empty:
            check_positives(fold, config.dataset_root)
        for stage in build_stages(config):
            check_batch_split(stage, fold, processes)


def _create(
    config: Config,
    given: frozenset[str],
    folder: Path,
    table: pd.DataFrame,
    samples: dict[str, Sample],
    leaks: list[dict],
) -> Config:
    """Create the run in its folder, or go on with it; return its settings."""
    with hold_run(folder):
        config = create_run(config, given, folder)
        record_data(folder, table, samples, config.dataset_root)
        add_leaks(folder, leaks)
    for number in config.fold_numbers():
        (folder / f"fold{number}").mkdir(exist_ok=True)
    return config


def _find_leaks(config: Config, table: pd.DataFrame, starts: dict[int, Path]) -> list[dict]:
    # A resumed run may need the file no longer; what was found at its start is in leakage.json.
    path, leak = config.encoder_weights, None
    if config.init_from and starts:
        leak = find_start_leak(config.init_from, starts, table)
    elif path and Path(path).exists():
        leak = find_leak(path, table)
    if leak is None:
        return []
    print0(
        f"\nWARNING: {describe_leak(leak)}.\nThe scores of these folds will be too high, and are "
        "marked as not out of fold. Use weights that were not trained on these images\n"
    )
    return [leak]


def _print_unused(config: Config, given: frozenset[str]) -> None:
    line = describe_unused(config, given)
    if line is not None:
        print0(line)


def _try_network(config: Config, is_new: bool) -> nn.Module:
    """Build the network once, so that a wrong name, file or size fails before the run starts.

    Only a new run needs pretrained weights; they are downloaded here, by one process.
    """
    network = build_model(
        config.model_type,
        pretrained=config.pretrained and is_new,
        encoder_weights=config.encoder_weights if is_new else None,
        t=config.t,
        presence_head=config.presence_head,
    )
    stages = build_stages(config)
    check_square_sizes(
        network, ((f"--image_size_stage{min(s.number, 2)}", s.image_size) for s in stages)
    )
    if parse_tta(config.tta).scales:
        check_scales(network, mask_stage(config).image_size)
    return network


def _check_batch_sizes(network: nn.Module, config: Config, processes: int) -> None:
    """Refuse batches of one image per process for a network that cannot be trained on them."""
    first = 2 if config.mode == "train_stage2" else 1
    check_single_images(
        network,
        (
            (f"--batch_size_stage{min(stage.number, 2)} {stage.batch_size}", stage.image_size)
            for stage in build_stages(config)
            if stage.batch_size == processes and stage.number >= first
        ),
    )


def _open_source(config: Config, samples: dict[str, Sample]) -> PixelSource:
    if not config.cache:
        return FileSource(samples, config.clahe, config.mask_resize)
    stages = build_stages(config)
    sizes = {stage.image_size for stage in stages}
    sizes |= {augmented_size(config, stage) for stage in stages}
    root = config.cache_dir or f"{config.dataset_root}/cache"
    return CacheSource(samples, config.clahe, sizes, root, config.mask_resize)


def _make_folds(config: Config, mask_fractions: dict[str, float], stratified: bool) -> pd.DataFrame:
    # Without --groups, patients do not change the folds, but leakage and intervals depend on them.
    path, patients = find_patients(config.groups, config.dataset_root, mask_fractions)
    positive = {name: fraction > 0 for name, fraction in mask_fractions.items()}
    table = make_folds(positive, config.n_splits, stratified, patients, grouped=bool(config.groups))
    print0(f"{len(table)} images, {sum(positive.values())} positive; {describe_leakage(table)}")
    if not config.groups and not shared_patients(table).empty:
        print0(
            f"WARNING: {path} is not used, so scores will be too high, as networks know patients "
            f"that they are validated on. Keep each patient in one fold with --groups {path}"
        )
    return table


def _solver_class(config: Config, has_encoder: bool) -> type[Solver]:
    if config.epoch_stage1_freeze == 0:
        return Solver
    if not has_encoder:
        print0(
            f"warning: {config.model_type} has no encoder to freeze; --epoch_stage1_freeze has no "
            "effect"
        )
        return Solver
    if not (config.pretrained or config.encoder_weights or config.init_from):
        print0("warning: the encoder to freeze has no pretrained weights")
    return FreezeSolver


def _check_finished(folder: Path, numbers: list[int]) -> None:
    """Refuse to summarise a run without a fold that was trained and then removed."""
    for number in numbers:
        if not is_finished(folder / f"fold{number}"):
            raise InputError(
                f"{folder}/fold{number}/oof.npz was removed or renamed in the meantime: restore "
                "it, or train the fold again with --resume true"
            )


def _summarise(folder: Path, tta: str) -> None:
    summary = summarise_run(folder)
    print0(f"\n{format_table(summary)}\n")
    print0(describe_thresholds(choose_thresholds(folder, tta)))
    if not summary["pooled"]["predicted"]:
        print0("no masks predicted: no rule of the search beats predicting no mask anywhere")
    print0(f"results: {folder}\ncurves:  tensorboard --logdir {folder}")


def _report_options(config: Config) -> ReportOptions:
    return ReportOptions(config.pictures, config.cases)
