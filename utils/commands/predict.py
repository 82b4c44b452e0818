"""The work of predict.py: check all inputs first, predict, write all results last."""

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric

from datasets.formats.depth import bits_file, read_bits
from datasets.formats.dicom_seg import Author
from utils.config.prediction import PredictOptions
from utils.config.tta import TTA
from utils.console import print0
from utils.distributed import decide_on_rank_zero, gather, launch, peak_gpu_memory
from utils.errors import InputError
from utils.inference.ensemble import open_blend
from utils.inference.images import ImageFiles
from utils.inference.loop import open_loader, predict_images
from utils.inference.pictures import Pictures
from utils.inference.planning import (
    StoredRule,
    choose_bits,
    choose_rule,
    find_images_to_predict,
    note_later_folds,
    report,
    report_problems,
    write_results,
)
from utils.inference.runs import (
    Checkpoints,
    WeightedRun,
    common_tta,
    device_batch_size,
    find_checkpoints,
    find_thresholds,
    prediction_precision,
    read_runs,
    threshold_command,
)
from utils.inference.segmentations import Segmentations, describe_author
from utils.inference.submission import InputImage, Problem
from utils.memory import readable_memory_errors
from utils.postprocessing.rule import PostProcess, load_rule, load_tta


class PredictionPlan(NamedTuple):
    """What rank 0 decides and broadcasts.

    Attributes:
        runs: the runs that predict.
        checkpoints: the checkpoints of each run.
        rule: turns probabilities into masks.
        tta: test-time augmentation.
        images: the images, in the order of the submission.
        problems: the files whose id cannot be read.
        bits: bits that 16-bit images use; None if there are none.
        author: who and what makes the masks, for DICOM Segmentations; None if none are wanted.
        suffix: of the names of this command's temporary folders.
    """

    runs: list[WeightedRun]
    checkpoints: list[Checkpoints]
    rule: PostProcess
    tta: TTA
    images: list[InputImage]
    problems: list[Problem]
    bits: int | None
    author: Author | None
    suffix: str


def predict(options: PredictOptions) -> None:
    """Do the work of predict.py on its devices.

    Raises:
        InputError: runs, images or settings cannot be used, or memory is exhausted.
        OSError: the results cannot be written.
    """
    runs = read_runs(options.run, options.weights, options.folds)
    precision = prediction_precision(options.precision, runs)
    fabric = launch(options.accelerator, options.devices, 1, precision)
    with readable_memory_errors():
        predict_on(fabric, options)


def predict_on(fabric: Fabric, options: PredictOptions) -> None:
    """Predict all images, each process its share, and write the results.

    Raises:
        InputError: runs, images or settings cannot be used; nothing is written.
    """
    plan = decide_on_rank_zero(fabric, lambda: make_plan(options))
    blend = open_blend(fabric, plan.runs, plan.checkpoints, plan.tta)
    owner, folders = fabric.is_global_zero, (options.overlays, options.probabilities)
    batch_size = options.batch_size or device_batch_size(plan.runs, fabric.world_size)
    with (
        Pictures(*folders, plan.rule.threshold, plan.suffix, owner) as pictures,
        Segmentations(options.dicom_seg, plan.author, plan.suffix, owner) as segmentations,
    ):
        mine = plan.images[fabric.global_rank :: fabric.world_size]
        dataset = ImageFiles(
            mine, blend.views, pictures.need_image, options.any_modality, plan.bits
        )
        loader = open_loader(dataset, batch_size, options.num_workers)
        only_read = bool(plan.problems and not options.skip_bad)
        started = time.perf_counter()
        predictions, problems = predict_images(
            fabric, blend, loader, plan.rule, pictures, options.skip_bad, only_read, segmentations
        )
        predictions, problems = gather(fabric, predictions), gather(fabric, problems)
        seconds = time.perf_counter() - started
        report_problems(plan.problems + problems, bool(predictions), options.skip_bad)
        if owner:
            write_results(options, predictions, plan.images, plan.bits, pictures, segmentations)
            report(options, predictions, seconds, plan.rule, peak_gpu_memory())


def make_plan(options: PredictOptions) -> PredictionPlan:
    """Find the runs, their rule and the images, and check that the results can be written.

    Raises:
        InputError: something is missing, ambiguous or cannot be used.
    """
    runs = read_runs(options.run, options.weights, options.folds)
    checkpoints = [find_checkpoints(run.folder, run.config, options.checkpoint) for run in runs]
    rule, tta = find_rule(options, runs)
    images, problems = find_images_to_predict(options)
    recorded = {str(run.folder): read_bits(bits_file(run.folder)) for run in runs}
    bits = choose_bits(options, recorded, images)
    suffix = secrets.token_hex(8)
    names = [f"{run.folder.resolve().name} (weight {run.weight:g})" for run in runs]
    author = describe_author(options, names, rule, tta)
    return PredictionPlan(runs, checkpoints, rule, tta, images, problems, bits, author, suffix)


def find_rule(options: PredictOptions, runs: Sequence[WeightedRun]) -> tuple[PostProcess, TTA]:
    """Read the rule from the threshold.json of the run or blend; flags override it.

    Returns:
        The rule, and the test-time augmentation: that of --tta, else that which the rule was chosen
        with, else that of the runs.

    Raises:
        InputError: the file is needed and cannot be read, the rule has a presence threshold but a
            network has no presence head, or nothing says which --tta.
    """
    path = find_thresholds(runs, options.tta)
    stored = StoredRule(
        path,
        path.exists(),
        lambda: _load_rule(path, runs, options.tta),
        lambda: load_tta(path),
        lambda tta: f"Choose others with\n  {threshold_command(runs, tta)}",
    )
    headless = not all(run.config.presence_head for run in runs)
    lacks = "but not every --run was trained with --presence_weight above 0" if headless else None
    rule, tta = choose_rule(options, stored, lambda: common_tta(runs), lacks)
    if stored.is_used(options):
        note_later_folds(path, runs)
        _note_last_epochs(path, options.checkpoint, runs)
    return rule, tta


def _note_last_epochs(path: Path, checkpoint: str, runs: Sequence[WeightedRun]) -> None:
    same = all(run.config.best_by == "last" and run.config.keep_best == 1 for run in runs)
    if checkpoint == "last" and not same:
        print0(
            f"note: the thresholds in {path} were chosen on the predictions of the best epochs, "
            "but --checkpoint last predicts with the last ones"
        )


def _load_rule(path: Path, runs: Sequence[WeightedRun], tta: str | None) -> PostProcess:
    if not path.exists():
        raise InputError(
            f"looked for the thresholds of {'this blend' if len(runs) > 1 else 'this run'} in "
            f"{path}; choose them with\n  {threshold_command(runs, tta)}\n"
            "or give --threshold and --min_area"
        )
    return load_rule(path)
