"""What is decided before a run: its images, folds, network, settings and folder."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from lightning_fabric import Fabric
from torch import nn

from datasets.folds import describe_leakage, get_fold, make_folds, shared_patients
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
from utils.config.checks import describe_unused
from utils.config.layout import find_starts
from utils.config.settings import Config
from utils.config.stages import build_stages, mask_stage
from utils.config.tta import parse_tta
from utils.console import print0
from utils.distributed import resolve_memory_format
from utils.files import check_writable
from utils.postprocessing.leakage import add_leaks, describe_leak, find_leak
from utils.training.start.initial import (
    check_start,
    find_start_leak,
    new_folds,
    set_normalisation,
)
from utils.training.start.run_data import compare_bits, compare_files, compare_folds, record_data
from utils.training.start.run_folder import check_fold, create_run, hold_run, make_folder, open_run


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


def make_plan(config: Config, given: frozenset[str], stratified: bool, fabric: Fabric) -> RunPlan:
    """Check what was asked for, decide what is left open, and only then create the run.

    Args:
        config: settings of this call.
        given: names of the settings that were given rather than left at their defaults.
        stratified: balance the share of positives over the folds.
        fabric: the device and the number of processes; only rank 0 calls this.

    Raises:
        InputError: data, settings or the files of an earlier run cannot be used.
    """
    is_named = config.run_name is not None
    config, folder = open_run(config, given)
    # Until a run without a name is created, its folder may become that of another run.
    earlier = folder if is_named else None
    is_new = not (folder / "config.yaml").exists()
    print_unused(config, given)
    check_writable(folder)
    samples = _find_images(config)
    # Fails fast: reading the masks takes time, and nothing has been written yet.
    network = try_network(config, is_new)
    _check_batch_sizes(network, config, fabric.world_size)
    _compare_images(config, samples, earlier)
    starts = _find_starts(config, earlier)
    if is_new:
        config = _resolve(config, starts, fabric)
    for start in dict.fromkeys(starts.values()):
        check_start(network, start, config)
    source = _open_source(config, samples)
    mask_fractions = source.mask_fractions()
    table = make_table(config, mask_fractions, stratified)
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


def print_unused(config: Config, given: frozenset[str]) -> None:
    """Name the settings that were given and have no effect, in one line."""
    line = describe_unused(config, given)
    if line is not None:
        print0(line)


def try_network(config: Config, is_new: bool) -> nn.Module:
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


def make_table(config: Config, mask_fractions: dict[str, float], stratified: bool) -> pd.DataFrame:
    """Make the content of folds.csv, and say how many patients are in several folds.

    Args:
        config: settings of the run.
        mask_fractions: fraction of mask pixels of each image, by id.
        stratified: balance the share of positives over the folds.
    """
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
