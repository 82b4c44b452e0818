"""The work of predict.py: check all inputs first, predict, write all results last."""

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric

from datasets.formats.depth import bits_file, choose_depth, largest_value, read_bits
from datasets.formats.dicom_seg import Author
from utils.config.prediction import PredictOptions
from utils.config.tta import TTA, parse_tta
from utils.console import print0
from utils.distributed import decide_on_rank_zero, gather, launch
from utils.errors import InputError, list_problems
from utils.files import check_output, is_stream
from utils.inference.ensemble import open_blend
from utils.inference.images import ImageFiles, open_loader, predict_images
from utils.inference.pictures import SHEET, Pictures
from utils.inference.runs import (
    Checkpoints,
    WeightedRun,
    blend_command,
    common_tta,
    device_batch_size,
    find_checkpoints,
    read_runs,
    results_folder,
)
from utils.inference.segmentations import Segmentations, check_segmentations, describe_author
from utils.inference.staging import existing_folder
from utils.inference.submission import (
    SCORES,
    InputImage,
    Prediction,
    Problem,
    find_input_images,
    read_sample,
    scores_path,
    select_by_sample,
    write_submission,
)
from utils.memory import peak_gpu_memory, peak_memory, readable_memory_errors
from utils.parallel import map_in_order
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
        InputError: runs, images or settings cannot be used, memory is exhausted, or the results
            cannot be written.
    """
    fabric = launch(options.accelerator, options.devices, 1, options.precision)
    try:
        with readable_memory_errors():
            predict_on(fabric, options)
    except OSError as error:
        raise InputError(f"the results cannot be written ({error})") from error


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
        _report_problems(plan.problems + problems, bool(predictions), options.skip_bad)
        if owner:
            by_id = {prediction.id: prediction for prediction in predictions}
            ordered = [by_id[image.id] for image in plan.images if image.id in by_id]
            pictures.write_sheet(ordered, plan.images, plan.bits)
            write_submission(Path(options.out), ordered)
            pictures.publish()
            segmentations.publish()
            _report(options, ordered, seconds, plan.rule)


def make_plan(options: PredictOptions) -> PredictionPlan:
    """Find the runs, their rule and the images, and check that the results can be written.

    Raises:
        InputError: something is missing, ambiguous or cannot be used.
    """
    runs = read_runs(options.run, options.weights, options.folds)
    checkpoints = [find_checkpoints(run.folder, run.config, options.checkpoint) for run in runs]
    rule, tta = choose_rule(options, runs)
    images, problems = find_input_images(options.images, options.ids)
    if options.sample_submission is not None:
        ids, found = read_sample(options.sample_submission), len(images)
        images, problems = select_by_sample(images, problems, ids, options.sample_submission)
        if found > len(images):
            print0(f"{found - len(images)} images are not in {options.sample_submission}: skipped")
    _check_targets(options, images)
    check_segmentations(options, images)
    bits = choose_bits(options, runs, images)
    suffix = secrets.token_hex(8)
    author = describe_author(options, runs, rule, tta)
    return PredictionPlan(runs, checkpoints, rule, tta, images, problems, bits, author, suffix)


def choose_bits(
    options: PredictOptions, runs: Sequence[WeightedRun], images: Sequence[InputImage]
) -> int | None:
    """Choose and print the depth to read 16-bit images with.

    It is that of --bits, else that of the images that the runs were trained on, else the fewest
    bits that hold the largest value of all images.

    Returns:
        The depth; None if there is no usable 16-bit image.

    Raises:
        InputError: the runs were trained on images of different depths, and there is no --bits.
    """
    deep = [image.path for image in images if image.deep]
    if not deep:
        return None
    recorded = {run.folder: read_bits(bits_file(run.folder)) for run in runs}
    known = {bits for bits in recorded.values() if bits is not None}
    if options.bits is None and len(known) > 1:
        depths = ", ".join(f"{folder}: {bits}" for folder, bits in recorded.items() if bits)
        raise InputError(
            f"the runs were trained on 16-bit images of different depths ({depths}); choose one "
            "with --bits"
        )
    if options.bits is None and not known:
        values = map_in_order(lambda path: largest_value(path, options.any_modality), deep)
        depth = choose_depth(values)
        if depth is None:
            return None
        print0(depth.describe())
        return depth.bits
    bits = options.bits or known.pop()
    source = "--bits" if options.bits else "as in training; --bits to change"
    print0(f"16-bit images: {len(deep):,}, read as {bits} bits ({source})")
    return bits


def choose_rule(options: PredictOptions, runs: Sequence[WeightedRun]) -> tuple[PostProcess, TTA]:
    """Read the rule from the threshold.json of the run or blend; flags override it.

    Returns:
        The rule, and the test-time augmentation: that of --tta, else that which the rule was chosen
        with, else that of the runs.

    Raises:
        InputError: the file is needed and cannot be read, the rule has a presence threshold but a
            network has no presence head, or nothing says which --tta.
    """
    given = {name: getattr(options, name) for name in PostProcess.__annotations__}
    given = {name: value for name, value in given.items() if value is not None}
    path, chosen_with = results_folder(runs) / "threshold.json", None
    if given.keys() == PostProcess.__annotations__.keys():
        rule = PostProcess(**given)
    elif given.keys() >= {"threshold", "min_area"} and not path.exists():
        rule = PostProcess(**{"top_threshold": given["threshold"]} | given)
    else:
        rule = replace(_load_rule(path, runs), **given)
        chosen_with = load_tta(path)
    tta = options.tta or chosen_with or common_tta(runs)
    if chosen_with not in (None, tta):
        print0(
            f"note: the thresholds in {path} were chosen with --tta {chosen_with}, but this "
            f"prediction uses --tta {tta}"
        )
    if rule.presence_threshold and not all(run.config.presence_head for run in runs):
        raise InputError(
            f"presence_threshold {rule.presence_threshold}: needs networks with a presence head, "
            "but not every --run was trained with --presence_weight above 0; use "
            "--presence_threshold 0"
        )
    return rule, parse_tta(tta)


def _load_rule(path: Path, runs: Sequence[WeightedRun]) -> PostProcess:
    if len(runs) > 1 and not path.exists():
        raise InputError(
            f"looked for the thresholds of this blend in {path}; choose them with\n"
            f"  {blend_command(runs)}\nor give --threshold and --min_area"
        )
    return load_rule(path)


def _check_targets(options: PredictOptions, images: list[InputImage]) -> None:
    """Refuse targets that cannot be written, or would overwrite an image or another output."""
    out, sample = Path(options.out), options.sample_submission
    if out.is_dir() or out.name == SCORES:
        raise InputError(f"--out {out}: must be a csv file other than {SCORES}")
    for path in (out, scores_path(out) or out):
        try:
            check_output(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written to ({error})") from error
    if sample is not None and out.resolve() == sample.resolve():
        raise InputError(f"--out {out}: is the sample submission; choose another name")
    flags = ("overlays", "probabilities", "dicom_seg")
    folders = {flag: getattr(options, flag) for flag in flags}
    targets = {name: folder.resolve() for name, folder in folders.items() if folder is not None}
    originals = {image.path.resolve().parent for image in images}
    for name, folder in targets.items():
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--{name} {folder}: is not a folder")
        if folder in originals:
            raise InputError(f"--{name} {folder}: holds images to predict; choose another folder")
    if len(targets) > len(set(targets.values())):
        raise InputError(f"two of --{', --'.join(targets)} are the same folder; give others")
    if options.overlays and any(image.id == SHEET for image in images):
        raise InputError(
            f"an image has the id {SHEET}, which --overlays uses for its contact sheet"
        )
    places = {out: out if is_stream(out) else existing_folder(out)}
    places |= {folder: existing_folder(folder) for folder in targets.values()}
    for target, place in places.items():
        if not os.access(place, os.W_OK):
            raise InputError(f"{target}: cannot be written to")


def _report_problems(problems: list[Problem], any_predicted: bool, skip_bad: bool) -> None:
    """List the images that could not be predicted; raise unless they may be skipped."""
    text = "\n  ".join(list_problems([problem.reason for problem in problems]))
    if problems and not skip_bad:
        raise InputError(
            f"{len(problems)} images cannot be used; nothing was written. Fix or remove them, or "
            f"skip them with --skip_bad true:\n  {text}"
        )
    if not any_predicted:
        raise InputError(f"no image can be used; nothing was written:\n  {text}")
    if problems:
        print0(f"{len(problems)} images skipped, without a row in the submission:\n  {text}")


def _report(
    options: PredictOptions, predictions: list[Prediction], seconds: float, rule: PostProcess
) -> None:
    positive = sum(prediction.area > 0 for prediction in predictions)
    gpu = peak_gpu_memory()
    print0(
        f"{len(predictions):,} images, {positive:,} with a mask; "
        f"{len(predictions) / seconds:.1f} images/s, peak memory {peak_memory():.2f} GiB"
        + (f", on the GPU {gpu:.2f} GiB" if gpu else "")
    )
    print0(f"thresholds: {rule.describe()}")
    scores = scores_path(Path(options.out))
    print0(f"submission: {options.out}" + (f", scores: {scores}" if scores else ""))
    if options.overlays:
        print0(f"overlays: {options.overlays / SHEET}.png and a picture of each image")
    if options.probabilities:
        print0(f"probabilities: {options.probabilities}")
    if options.dicom_seg:
        print0(f"DICOM segmentations: {options.dicom_seg}")
