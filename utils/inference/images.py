"""Predicts image files, with one full-size map in memory at a time."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.formats.images import read_image
from datasets.formats.rle import encode
from datasets.preprocessing import preprocess
from utils.errors import InputError
from utils.inference.maps import Batch, LevelMaps
from utils.inference.pictures import Pictures
from utils.inference.runs import View
from utils.inference.segmentations import Segmentations
from utils.inference.submission import InputImage, Prediction, Problem
from utils.postprocessing.rule import PostProcess


class LoadedImage(NamedTuple):
    """An image file that was read and preprocessed.

    Attributes:
        image: its id and file.
        size: height and width of the original in pixels.
        views: the image preprocessed for each view, [1,S,S] uint8.
        grey: [H,W] uint8, the original; None unless `ImageFiles.keep_original`.
    """

    image: InputImage
    size: tuple[int, int]
    views: list[np.ndarray]
    grey: np.ndarray | None


class LoadedBatch(NamedTuple):
    """The readable images of a batch, and the problems with the others."""

    batch: Batch[LoadedImage]
    problems: list[Problem]


class ImageFiles:
    """Preprocessed images: `dataset[index]` -> `LoadedImage`, or a `Problem`.

    Args:
        images: the files.
        views: the ways to preprocess them.
        keep_original: return the image at its original size as well.
        any_modality: accept a DICOM that is no X-ray.
        bits: bits that 16-bit images use; None refuses such images.
    """

    def __init__(
        self,
        images: list[InputImage],
        views: Sequence[View],
        keep_original: bool,
        any_modality: bool = False,
        bits: int | None = None,
    ):
        self.images = images
        self.views = views
        self.keep_original = keep_original
        self.any_modality = any_modality
        self.bits = bits

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LoadedImage | Problem:
        """Return the preprocessed image, or what is wrong with its file."""
        image = self.images[index]
        try:
            grey = read_image(image.path, self.any_modality, self.bits)
        except InputError as error:
            return Problem(image.id, str(error))
        views = [preprocess(grey, *view)[None] for view in self.views]
        original = grey if self.keep_original else None
        return LoadedImage(image, (grey.shape[0], grey.shape[1]), views, original)


def collate(items: Sequence[LoadedImage | Problem]) -> LoadedBatch:
    """Stack the readable images into a batch, [B,1,S,S] uint8 for each view."""
    problems = [item for item in items if isinstance(item, Problem)]
    good = [item for item in items if not isinstance(item, Problem)]
    images = [np.stack(view) for view in zip(*(item.views for item in good), strict=True)]
    # The batch holds the views; keeping them in its items too would send them twice.
    alone = [item._replace(views=[]) for item in good]
    return LoadedBatch(Batch(images, [item.size for item in good], alone), problems)


def predict_files(
    predict: Callable[[Batch[LoadedImage]], Iterable[tuple[LoadedImage, LevelMaps]]],
    batches: Iterable[LoadedBatch],
    total: int,
    rule: PostProcess,
    pictures: Pictures,
    skip_bad: bool,
    only_read: bool,
    show_progress: bool = True,
    segmentations: Segmentations | None = None,
) -> tuple[list[Prediction], list[Problem]]:
    """Predict image files.

    Args:
        predict: predicts a batch; yields each image with its maps, one at a time.
        batches: images as `ImageFiles` loads them and `collate` stacks them.
        total: number of images.
        rule: turns probabilities into masks.
        pictures: writes the pictures of every image.
        skip_bad: continue after an unreadable file; otherwise the remaining files are only read,
            to list every problem.
        only_read: predict nothing, only read all files to list every problem.
        show_progress: show a progress bar.
        segmentations: writes the DICOM Segmentation of every mask; None writes none.

    Returns:
        The predictions in the order of the batches, and the problems.
    """
    predictions: list[Prediction] = []
    problems: list[Problem] = []
    with tqdm(desc="predict", total=total, unit="image", disable=not show_progress) as bar:
        for batch, unreadable in batches:
            problems += unreadable
            only_read = only_read or bool(problems and not skip_bad)
            if batch.items and not only_read:
                for loaded, maps in predict(batch):
                    try:
                        predictions.append(
                            _postprocess(loaded, maps, rule, pictures, segmentations)
                        )
                    except InputError as error:
                        problems.append(Problem(loaded.image.id, str(error)))
            bar.update(len(batch.items) + len(unreadable))
    return predictions, problems


def _postprocess(
    loaded: LoadedImage,
    maps: LevelMaps,
    rule: PostProcess,
    pictures: Pictures,
    segmentations: Segmentations | None,
) -> Prediction:
    maps.check(loaded.image.path)
    mask = rule.mask(maps.levels, maps.gate, maps.presence)
    probability = maps.gate_maximum if maps.presence is None else maps.presence
    area = int(np.count_nonzero(mask))
    prediction = Prediction(loaded.image.id, encode(mask), probability, area)
    pictures.write(prediction, loaded.grey, mask, maps.levels)
    if segmentations is not None:
        segmentations.write(prediction, loaded.image.path, mask)
    return prediction
