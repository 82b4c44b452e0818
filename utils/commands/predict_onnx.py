"""The work of predict.py --model: an exported network is run by onnxruntime, without torch."""

import secrets
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice

from utils.config.prediction import PredictOptions, blend_command
from utils.config.tta import TTA
from utils.errors import InputError
from utils.inference.images import ImageFiles, LoadedBatch, collate, predict_files
from utils.inference.onnx_model import OnnxModel
from utils.inference.pictures import Pictures
from utils.inference.planning import (
    StoredRule,
    choose_bits,
    choose_rule,
    find_images_to_predict,
    report,
    report_problems,
    write_results,
)
from utils.inference.segmentations import Segmentations, describe_author
from utils.parallel import map_in_order
from utils.postprocessing.rule import PostProcess


def predict(options: PredictOptions) -> None:
    """Predict all images with the file of --model, and write the results.

    Raises:
        InputError: the file, images or settings cannot be used.
        OSError: the results cannot be written.
    """
    assert options.model is not None, "predict.py chooses between --run and --model"
    model = OnnxModel(options.model)
    rule, tta = find_rule(options, model)
    images, unnamed = find_images_to_predict(options)
    bits = choose_bits(options, {str(model.path): model.bits}, images)
    author, suffix = describe_author(options, [model.name], rule, tta), secrets.token_hex(8)
    with (
        Pictures(options.overlays, options.probabilities, rule.threshold, suffix, True) as pictures,
        Segmentations(options.dicom_seg, author, suffix, True) as segmentations,
    ):
        files = ImageFiles(images, [model.view], pictures.need_image, options.any_modality, bits)
        started = time.perf_counter()
        predictions, problems = predict_files(
            partial(model.predict, mirror=tta.hflip),
            load_batches(files, options.batch_size or 1),
            len(files),
            rule,
            pictures,
            options.skip_bad,
            only_read=bool(unnamed and not options.skip_bad),
            segmentations=segmentations,
        )
        seconds = time.perf_counter() - started
        report_problems(unnamed + problems, bool(predictions), options.skip_bad)
        write_results(options, predictions, images, bits, pictures, segmentations)
    report(options, predictions, seconds, rule)


def load_batches(files: ImageFiles, batch_size: int) -> Iterator[LoadedBatch]:
    """Load batches in order, in threads beside the network."""
    items = map_in_order(files.__getitem__, range(len(files)))
    while batch := list(islice(items, batch_size)):
        yield collate(batch)


def find_rule(options: PredictOptions, model: OnnxModel) -> tuple[PostProcess, TTA]:
    """Return the rule that the file holds; flags override it.

    Returns:
        The rule, and the test-time augmentation: that of --tta, else that which the rule was chosen
        with.

    Raises:
        InputError: the file holds none and it is needed, --tta has scales, or the rule has a
            presence threshold but the networks have no presence head.
    """
    stored = StoredRule(
        model.path,
        model.has_rule,
        model.rule,
        lambda: model.rule_tta,
        lambda tta: (
            "Choose others where the run is, and give them as flags:\n  "
            + blend_command(["RUN"], tta=tta)
        ),
    )
    lacks = None if "presence" in model.outputs else f"which {model.path} has not"
    rule, tta = choose_rule(options, stored, lambda: model.rule_tta, lacks)
    if tta.scales:
        raise InputError(
            f"--tta {options.tta or model.rule_tta}: an exported network takes images of one size; "
            "use --tta none or hflip, or predict with --run"
        )
    return rule, tta
