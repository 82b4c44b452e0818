"""Cases of a run: their images, predicted once more by the networks that did not train on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from datasets.formats.images import read_image
from datasets.siim import pick_samples
from datasets.sources.base import Sample
from datasets.sources.files import FileSource
from utils.config.tta import parse_tta
from utils.errors import InputError
from utils.inference.ensemble import open_blend
from utils.inference.out_of_fold import predict_maps
from utils.inference.runs import WeightedRun, device_batch_size, find_checkpoints
from utils.report.cases import Areas, Picture, draw_picture
from utils.report.evidence import Evidence


def areas_of(evidence: Evidence) -> Areas:
    """Return what the cases of a run are chosen by."""
    rules, folds = evidence.chosen.rules, evidence.folds
    predicted = np.concatenate([rules[number].areas(folds[number]) for number in folds])
    truth = evidence.pooled.mask.sum(axis=1)
    return Areas(evidence.pooled.ids, evidence.scores.dice, truth, predicted)


def draw_cases(
    fabric: Fabric, evidence: Evidence, indices: Sequence[int], dataset_root: str | Path
) -> dict[int, Picture]:
    """Predict images again, each by the networks of its fold, since their masks are not stored.

    Args:
        fabric: the device; other processes take no part.
        evidence: the run.
        indices: of the images in `evidence.pooled`.
        dataset_root: the folder of the run's data set.

    Returns:
        The picture of each image by index.

    Raises:
        InputError: the images of the run or its checkpoints are not there any more.
    """
    names = evidence.pooled.ids[list(indices)].tolist()
    samples = pick_samples(dataset_root, names)
    missing = [name for name in names if name not in samples]
    if missing:
        raise InputError(
            f"image {missing[0]} is not in {dataset_root}/train_images; set --dataset_root to the "
            "run's images"
        )
    pictures: dict[int, Picture] = {}
    for fold in evidence.folds:
        inside = [index for index in indices if evidence.fold_of[index] == fold]
        if inside:
            pictures |= _draw_fold(fabric, evidence, samples, fold, inside)
    return pictures


def _draw_fold(
    fabric: Fabric,
    evidence: Evidence,
    samples: dict[str, Sample],
    fold: int,
    indices: Sequence[int],
) -> dict[int, Picture]:
    config, rule = replace(evidence.config, folds=fold), evidence.chosen.rules[fold]
    runs = [WeightedRun(evidence.folder, config, 1.0)]
    checkpoints = [find_checkpoints(evidence.folder, config, "best")]
    blend = open_blend(fabric, runs, checkpoints, parse_tta(evidence.chosen.tta))
    index_of = {str(evidence.pooled.ids[index]): index for index in indices}
    ids, pictures = list(index_of), {}
    pixels = [FileSource(samples, view.clahe).pixels(ids, view.size) for view in blend.views]
    for maps in predict_maps(fabric, blend, pixels, ids, device_batch_size(runs, 1)):
        grey = read_image(samples[maps.id].image, bits=None)
        mask = rule.mask(maps.levels, maps.gate, maps.presence)
        pictures[index_of[maps.id]] = draw_picture(grey, maps.mask, mask)
    return pictures
