"""What every prediction decides first and reports last, whatever runs the networks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from datasets.formats.depth import choose_depth, largest_value
from utils.config.layout import finished_folds
from utils.config.prediction import PredictOptions
from utils.config.tta import TTA, parse_tta
from utils.console import print0
from utils.errors import InputError, list_problems
from utils.inference.pictures import SHEET, Pictures
from utils.inference.runs import WeightedRun, threshold_command
from utils.inference.segmentations import Segmentations, check_segmentations
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
from utils.memory import peak_memory
from utils.parallel import map_in_order
from utils.postprocessing.rule import NO_MASKS, PostProcess, load_folds, load_tta


class StoredRule(NamedTuple):
    """The rule that a run, a blend or an exported network brings along.

    Attributes:
        path: its file.
        exists: whether the file holds one.
        load: reads it; raises `InputError` if there is none, or a damaged one.
        tta: returns the --tta that an existing rule was chosen with.
        remedy: returns how to get a rule for another --tta.
    """

    path: Path
    exists: bool
    load: Callable[[], PostProcess]
    tta: Callable[[], str]
    remedy: Callable[[str], str]

    def is_used(self, options: PredictOptions) -> bool:
        """Return whether it has a part that no flag replaces."""
        return (
            self.exists and given_thresholds(options).keys() != PostProcess.__annotations__.keys()
        )


def find_images_to_predict(
    options: PredictOptions,
) -> tuple[list[InputImage], list[Problem]]:
    """Find the images, in the order of the submission, and check what results would overwrite.

    Returns:
        The images, and the files whose id cannot be read.

    Raises:
        InputError: an image is missing, or a result would overwrite one.
    """
    images, problems = find_input_images(options.images, options.ids)
    if options.sample_submission is not None:
        ids, found = read_sample(options.sample_submission), len(images)
        images, problems = select_by_sample(images, problems, ids, options.sample_submission)
        if found > len(images):
            print0(f"{found - len(images)} images are not in {options.sample_submission}: skipped")
    _check_targets(options, images)
    check_segmentations(options, images)
    return images, problems


def choose_bits(
    options: PredictOptions, recorded: Mapping[str, int | None], images: Sequence[InputImage]
) -> int | None:
    """Choose and print the depth to read 16-bit images with.

    It is that of --bits, else that of the images that the runs were trained on, else the fewest
    bits that hold the largest value of all images.

    Args:
        options: settings of the prediction.
        recorded: the depth of the images that each run was trained on; None if they had 8 bits.
        images: the images to predict.

    Returns:
        The depth; None if there is no usable 16-bit image.

    Raises:
        InputError: the runs were trained on images of different depths, and there is no --bits.
    """
    deep = [image.path for image in images if image.deep]
    if not deep:
        return None
    known = {bits for bits in recorded.values() if bits is not None}
    if options.bits is None and len(known) > 1:
        depths = ", ".join(f"{name}: {bits}" for name, bits in recorded.items() if bits)
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


def given_thresholds(options: PredictOptions) -> dict[str, float]:
    """Return the parameters of the rule that were given as flags, by name."""
    given = {name: getattr(options, name) for name in PostProcess.__annotations__}
    return {name: value for name, value in given.items() if value is not None}


def choose_rule(
    options: PredictOptions,
    stored: StoredRule,
    default_tta: Callable[[], str],
    lacks_presence: str | None,
) -> tuple[PostProcess, TTA]:
    """Return the stored rule, parts of which flags replace, and the test-time augmentation.

    Args:
        options: settings of the prediction.
        stored: what the networks bring along.
        default_tta: returns the --tta to use if neither a flag nor the rule says which.
        lacks_presence: why the networks have no presence head; None if they have one.

    Raises:
        InputError: the stored rule is needed and cannot be read, or the rule has a presence
            threshold but the networks have no presence head.
    """
    rule = _combine(stored, given_thresholds(options))
    chosen_with = stored.tta() if stored.is_used(options) else None
    tta = options.tta or chosen_with or default_tta()
    if chosen_with not in (None, tta):
        print0(
            f"note: the thresholds in {stored.path} were chosen with --tta {chosen_with}, but this "
            f"prediction uses --tta {tta}. {stored.remedy(tta)}"
        )
    if rule.presence_threshold and lacks_presence is not None:
        raise InputError(
            f"presence_threshold {rule.presence_threshold}: needs networks with a presence head, "
            f"{lacks_presence}; use --presence_threshold 0"
        )
    return rule, parse_tta(tta, stored.path if options.tta is None else "--tta")


def note_later_folds(path: Path, runs: Sequence[WeightedRun]) -> None:
    """Print a note if folds were finished after the thresholds had been chosen without them.

    Args:
        path: a readable threshold.json.
        runs: the runs that it is for.
    """
    chosen = load_folds(path)
    finished = set.intersection(*({*finished_folds(run.folder)} for run in runs))
    later = sorted(finished - chosen) if chosen else []
    if later:
        print0(
            f"note: fold {', '.join(map(str, later))} had no part in the thresholds in {path}. "
            f"Choose them again with\n  {threshold_command(runs, load_tta(path))}"
        )


def _combine(stored: StoredRule, given: dict) -> PostProcess:
    """Return the flags, completed by the stored rule."""
    if given.keys() == PostProcess.__annotations__.keys():
        return PostProcess(**given)
    followed = {"top_threshold": given["threshold"]} | given if "threshold" in given else given
    if given.keys() >= {"threshold", "min_area"} and not stored.exists:
        return PostProcess(**followed)
    rule = stored.load()
    # No pixel exceeds its top threshold, so that no --min_area would let an image pass.
    return replace(rule, **(followed if rule == NO_MASKS else given))


def report_problems(problems: list[Problem], any_predicted: bool, skip_bad: bool) -> None:
    """List the images that could not be predicted.

    Raises:
        InputError: there are some and they may not be skipped, or no image could be predicted.
    """
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


def write_results(
    options: PredictOptions,
    predictions: Sequence[Prediction],
    images: Sequence[InputImage],
    bits: int | None,
    pictures: Pictures,
    segmentations: Segmentations,
) -> None:
    """Write the csv files and publish pictures and segmentations, in the order of the images.

    Args:
        options: settings of the prediction.
        predictions: the predictions, in any order.
        images: all images.
        bits: bits that 16-bit images use; None if there are none.
        pictures: has written the pictures of every image.
        segmentations: has written the segmentation of every mask.
    """
    by_id = {prediction.id: prediction for prediction in predictions}
    ordered = [by_id[image.id] for image in images if image.id in by_id]
    pictures.write_sheet(ordered, images, bits)
    write_submission(Path(options.out), ordered)
    pictures.publish()
    segmentations.publish()


def report(
    options: PredictOptions,
    predictions: list[Prediction],
    seconds: float,
    rule: PostProcess,
    gpu: float = 0.0,
) -> None:
    """Print how many images were predicted, how fast, with which rule, and where the results are.

    Args:
        options: settings of the prediction.
        predictions: the predictions.
        seconds: time that they took.
        rule: turned probabilities into masks.
        gpu: peak memory on the GPU in GiB; 0 without one.
    """
    positive = sum(prediction.area > 0 for prediction in predictions)
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


def _check_targets(options: PredictOptions, images: list[InputImage]) -> None:
    """Refuse targets that would overwrite an image or another output, or be predicted later."""
    out = Path(options.out)
    if out.name == SCORES:
        raise InputError(f"--out {out}: must be a csv file other than {SCORES}")
    flags = ("overlays", "probabilities", "dicom_seg")
    folders = {flag: getattr(options, flag) for flag in flags}
    targets = {name: folder.resolve() for name, folder in folders.items() if folder is not None}
    originals = {image.path.resolve().parent for image in images}
    searched = {path.resolve() for path in options.images if path.is_dir()}
    for name, folder in targets.items():
        if folder in originals:
            raise InputError(f"--{name} {folder}: holds images to predict; choose another folder")
        # What is written there would be found as images to predict the next time.
        if not searched.isdisjoint((folder, *folder.parents)):
            raise InputError(
                f"--{name} {folder}: lies in a folder of --images, where images are looked for at "
                "any depth; choose another folder"
            )
    if len(targets) > len(set(targets.values())):
        raise InputError(f"two of --{', --'.join(targets)} are the same folder; give others")
    if options.overlays and any(image.id == SHEET for image in images):
        raise InputError(
            f"an image has the id {SHEET}, which --overlays uses for its contact sheet"
        )
