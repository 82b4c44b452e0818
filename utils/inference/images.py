"""Predicts image files, with one full-size map in memory at a time."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.formats.images import read_image
from datasets.formats.rle import encode
from datasets.preprocessing import preprocess
from datasets.workers import Loader
from utils.errors import InputError
from utils.inference.ensemble import Blend, FullSizeMaps
from utils.inference.loop import Batch, make_batch, open_prediction_loader, predict_batch
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
        views: the image preprocessed for each view, uint8 [1,S,S].
        grey: [H,W] uint8, the original; None unless `ImageFiles.keep_original`.
    """

    image: InputImage
    size: tuple[int, int]
    views: list[Tensor]
    grey: Tensor | None


class LoadedBatch(NamedTuple):
    """The readable images of a batch, and the problems with the others."""

    batch: Batch[LoadedImage]
    problems: list[Problem]


class ImageFiles(Dataset):
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
        views = [torch.from_numpy(preprocess(grey, *view))[None] for view in self.views]
        original = torch.from_numpy(grey) if self.keep_original else None
        return LoadedImage(image, (grey.shape[0], grey.shape[1]), views, original)


def open_loader(dataset: ImageFiles, batch_size: int, num_workers: int) -> Loader:
    """Load `LoadedBatch`es of at most `batch_size` images, in order."""
    return open_prediction_loader(dataset, batch_size, num_workers, _collate, range(len(dataset)))


def predict_images(
    fabric: Fabric,
    blend: Blend,
    loader: Loader,
    rule: PostProcess,
    pictures: Pictures,
    skip_bad: bool,
    only_read: bool,
    segmentations: Segmentations | None = None,
) -> tuple[list[Prediction], list[Problem]]:
    """Predict the images of a loader.

    Args:
        fabric: device and processes.
        blend: predicts a batch.
        loader: yields `LoadedBatch` with the images of `blend.views`.
        rule: turns probabilities into masks.
        pictures: writes the pictures of every image.
        skip_bad: continue after an unreadable file; otherwise the remaining files are only read,
            to list every problem.
        only_read: predict nothing, only read all files to list every problem.
        segmentations: writes the DICOM Segmentation of every mask; None writes none.

    Returns:
        The predictions in the loader's order, and the problems.
    """
    predictions: list[Prediction] = []
    problems: list[Problem] = []
    total = len(cast(ImageFiles, loader.dataset))
    with tqdm(desc="predict", total=total, unit="image", disable=not fabric.is_global_zero) as bar:
        for batch, unreadable in loader:
            problems += unreadable
            only_read = only_read or bool(problems and not skip_bad)
            if batch.items and not only_read:
                for loaded, maps in predict_batch(fabric, blend, batch):
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
    maps: FullSizeMaps,
    rule: PostProcess,
    pictures: Pictures,
    segmentations: Segmentations | None,
) -> Prediction:
    maps.check(loaded.image.path)
    levels, gate = maps.levels()
    mask = rule.mask(levels, gate, maps.presence)
    probability = maps.gate_maximum() if maps.presence is None else maps.presence
    area = int(np.count_nonzero(mask))
    prediction = Prediction(loaded.image.id, encode(mask), probability, area)
    grey = None if loaded.grey is None else loaded.grey.numpy()
    pictures.write(prediction, grey, mask, levels)
    if segmentations is not None:
        segmentations.write(prediction, loaded.image.path, mask)
    return prediction


def _collate(items: list[LoadedImage | Problem]) -> LoadedBatch:
    problems = [item for item in items if isinstance(item, Problem)]
    good = [item for item in items if not isinstance(item, Problem)]
    views, sizes = [item.views for item in good], [item.size for item in good]
    # The batch holds the views; keeping them in its items too would send them twice.
    return LoadedBatch(make_batch(views, sizes, [i._replace(views=[]) for i in good]), problems)
