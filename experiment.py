"""A run: plan it on rank 0, train every fold with a solver, summarise the results."""

from collections.abc import Callable
from pathlib import Path

from lightning_fabric import Fabric

from datasets.folds import get_fold
from solver import Solver
from solver_freeze import FreezeSolver
from utils.config.settings import Config
from utils.config.stages import Stage, build_stages
from utils.console import print0
from utils.distributed import decide_on_rank_zero, launch
from utils.errors import InputError, code_for_all
from utils.files import check_writable
from utils.postprocessing.selection import choose_thresholds, describe_thresholds
from utils.postprocessing.summary import format_table, summarise_run
from utils.report.writing import ReportOptions, try_report
from utils.signals import EXIT_RETRY
from utils.training.start.plan import RunPlan, make_plan, print_unused
from utils.training.start.run_folder import (
    check_precision,
    claim_fold,
    hold_run,
    is_finished,
    lock_fold,
    open_run,
    settle_precision,
)


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
        return _choose_thresholds(config, given)
    config = settle_precision(config, given)
    fabric = launch(
        config.accelerator,
        config.devices,
        config.num_nodes,
        config.precision,
        config.deterministic,
    )
    plan = decide_on_rank_zero(fabric, lambda: make_plan(config, given, stratified, fabric))
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


def _choose_thresholds(config: Config, given: frozenset[str]) -> int:
    config, folder = open_run(config, given)
    print_unused(config, given)
    check_writable(folder)
    with hold_run(folder):
        chosen = choose_thresholds(folder, config.tta)
    print0(describe_thresholds(chosen))
    try_report(folder, _report_options(config))
    return 0


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
    return ReportOptions(config.pictures, config.cases, config.dataset_root)
