"""Predict images with the networks of runs: settle everything first, write everything last."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric

from utils.config.prediction import Options, choose_rule
from utils.console import say
from utils.distributed import decide_once, gather
from utils.errors import InputError
from utils.inference.images import ImageFiles, open_loader, predict_images
from utils.inference.pictures import SHEET, Pictures, existing_folder
from utils.inference.runs import (
    Checkpoints,
    Member,
    common_batch_size,
    find_checkpoints,
    open_blend,
    read_members,
)
from utils.inference.submission import (
    SCORES,
    Prediction,
    Problem,
    Source,
    find_sources,
    read_sample,
    select,
    write_submission,
)
from utils.memory import peak_gpu_memory, peak_memory
from utils.postprocessing.rule import PostProcess

_HANDFUL = 20


class Plan(NamedTuple):
    """What is decided once and handed to every process.

    Attributes:
        members: the runs.
        checkpoints: of each of them.
        rule: turns probabilities into masks.
        sources: the images, in the order of the rows.
        problems: the files whose id cannot be read.
        mark: names the hidden folders of this command.
    """

    members: list[Member]
    checkpoints: list[Checkpoints]
    rule: PostProcess
    sources: list[Source]
    problems: list[Problem]
    mark: str


def predict(fabric: Fabric, options: Options) -> None:
    """Predict all images, every process its share, and write what was asked for.

    Raises:
        InputError: run, images or settings cannot be used; nothing is written then.
    """
    plan = decide_once(fabric, lambda: make_plan(options))
    blend = open_blend(fabric, plan.members, plan.checkpoints, mirror=options.tta == "hflip")
    owner, folders = fabric.is_global_zero, (options.overlays, options.probabilities)
    batch_size = options.batch_size or common_batch_size(plan.members)
    with Pictures(*folders, plan.rule.threshold, plan.mark, owner) as pictures:
        mine = plan.sources[fabric.global_rank :: fabric.world_size]
        dataset = ImageFiles(mine, blend.views, pictures.need_image)
        loader = open_loader(dataset, batch_size, options.num_workers)
        only_read = bool(plan.problems and not options.skip_bad)
        started = time.perf_counter()
        predictions, problems = predict_images(
            fabric, blend, loader, plan.rule, pictures, options.skip_bad, only_read
        )
        predictions, problems = gather(fabric, predictions), gather(fabric, problems)
        seconds = time.perf_counter() - started
        _judge(plan.problems + problems, bool(predictions), options.skip_bad)
        if owner:
            by_id = {prediction.id: prediction for prediction in predictions}
            ordered = [by_id[source.id] for source in plan.sources if source.id in by_id]
            pictures.write_sheet(ordered, plan.sources)
            write_submission(Path(options.out), ordered)
            pictures.publish()
            _report(options, ordered, seconds)


def make_plan(options: Options) -> Plan:
    """Find the runs, their rule and the images, and make sure that the results can be written.

    Raises:
        InputError: something is missing, ambiguous or cannot be used.
    """
    members = read_members(options.run, options.weights, options.folds)
    checkpoints = [find_checkpoints(m.run, m.config, options.checkpoint) for m in members]
    rule = choose_rule(options, members)
    sources, problems = find_sources(options.images)
    if options.sample_submission is not None:
        ids, found = read_sample(options.sample_submission), len(sources)
        sources, problems = select(sources, problems, ids, options.sample_submission)
        if found > len(sources):
            say(f"{found - len(sources)} images are not in {options.sample_submission}: left out")
    _check_targets(options, sources)
    return Plan(members, checkpoints, rule, sources, problems, str(os.getpid()))


def _check_targets(options: Options, sources: list[Source]) -> None:
    """Refuse what could not be written, or would take the place of an image or of another file."""
    out, sample = Path(options.out), options.sample_submission
    if out.is_dir() or out.name == SCORES:
        raise InputError(f"--out {out}: give the name of a csv file other than {SCORES}")
    if sample is not None and out.resolve() == sample.resolve():
        raise InputError(f"--out {out}: is the sample submission; give another name")
    folders = {"overlays": options.overlays, "probabilities": options.probabilities}
    folders = {name: folder.resolve() for name, folder in folders.items() if folder is not None}
    originals = {source.path.resolve().parent for source in sources}
    for name, folder in folders.items():
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--{name} {folder}: is not a folder")
        if folder in originals:
            raise InputError(f"--{name} {folder}: holds images to predict; give another folder")
    if len(folders) > len(set(folders.values())):
        raise InputError("--overlays and --probabilities name the same folder; give two")
    if options.overlays and any(source.id == SHEET for source in sources):
        raise InputError(f"an image is called {SHEET}, as is a picture that --overlays makes")
    for target in (out.resolve(), *folders.values()):
        if not os.access(existing_folder(target), os.W_OK):
            raise InputError(f"{target}: cannot be written to")


def _judge(problems: list[Problem], any_predicted: bool, skip_bad: bool) -> None:
    """Name the images that could not be predicted; refuse to go on unless they may be skipped."""
    lines = [problem.reason for problem in problems[:_HANDFUL]]
    if len(problems) > _HANDFUL:
        lines.append(f"and {len(problems) - _HANDFUL} more")
    text = "\n  ".join(lines)
    if problems and not skip_bad:
        raise InputError(
            f"{len(problems)} images cannot be used; nothing was written. Repair or remove them, or"
            f" leave them out with --skip_bad true:\n  {text}"
        )
    if not any_predicted:
        raise InputError(f"no image can be used; nothing was written:\n  {text}")
    if problems:
        say(f"{len(problems)} images skipped, they have no row:\n  {text}")


def _report(options: Options, predictions: list[Prediction], seconds: float) -> None:
    positive = sum(prediction.area > 0 for prediction in predictions)
    gpu = peak_gpu_memory()
    say(
        f"{len(predictions):,} images, {positive:,} with a mask; "
        f"{len(predictions) / seconds:.1f} images/s, peak memory {peak_memory():.2f} GiB"
        + (f", on the GPU {gpu:.2f} GiB" if gpu else "")
    )
    say(f"submission: {options.out}, scores: {Path(options.out).with_name(SCORES)}")
    if options.overlays:
        say(f"pictures: {options.overlays / SHEET}.png and one for each image")
    if options.probabilities:
        say(f"probabilities: {options.probabilities}")
