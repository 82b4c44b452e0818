"""Images in, one row each out: at most a batch of full-size maps is in memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.formats.images import preprocess, read_image
from datasets.formats.rle import encode
from datasets.loaders import start_worker
from utils.errors import InputError
from utils.inference.ensemble import Blend, View, Whole
from utils.inference.pictures import Pictures
from utils.inference.submission import Prediction, Problem, Source
from utils.postprocessing.rule import PostProcess


class Loaded(NamedTuple):
    """What is known of an image that was read.

    Attributes:
        source: which image.
        height: of the original, in pixels.
        width: of the original, in pixels.
        grey: [H,W] uint8, the original; None unless asked for.
    """

    source: Source
    height: int
    width: int
    grey: Tensor | None


class Batch(NamedTuple):
    """The images of a batch that could be read, and those that could not.

    Attributes:
        images: for each view, [B,1,S,S] uint8 grey, preprocessed.
        loaded: B descriptions of them.
        problems: the files that could not be read.
    """

    images: list[Tensor]
    loaded: list[Loaded]
    problems: list[Problem]


class ImageFiles(Dataset):
    """Preprocessed images: `dataset[index]` -> one for each view and `Loaded`, or a `Problem`.

    Args:
        sources: the images.
        views: how networks are shown them.
        keep_original: give the image at its original size as well.
    """

    def __init__(self, sources: list[Source], views: Sequence[View], keep_original: bool):
        self.sources = sources
        self.views = views
        self.keep_original = keep_original

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[list[Tensor], Loaded] | Problem:
        """Return the image for each view, uint8 [1,size,size], or what is wrong with its file."""
        source = self.sources[index]
        try:
            grey = read_image(source.path)
            images = [preprocess(grey, *view) for view in self.views]
        except InputError as error:
            return Problem(source.id, str(error))
        original = torch.from_numpy(grey) if self.keep_original else None
        seen = [torch.from_numpy(image)[None] for image in images]
        return seen, Loaded(source, *grey.shape, original)


def open_loader(dataset: ImageFiles, batch_size: int, num_workers: int) -> DataLoader:
    """Load `Batch`es of at most `batch_size` images in order, in worker processes."""
    batches = -(-len(dataset) // batch_size)
    return DataLoader(
        dataset,
        batch_size,
        num_workers=min(num_workers, batches),
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_worker,
    )


def predict_images(
    fabric: Fabric,
    blend: Blend,
    loader: DataLoader,
    rule: PostProcess,
    pictures: Pictures,
    skip_bad: bool,
    only_read: bool,
) -> tuple[list[Prediction], list[Problem]]:
    """Predict the images of a loader.

    Args:
        fabric: knows the device.
        blend: predicts a batch.
        loader: gives `Batch`, with the images of `blend.views`.
        rule: turns probabilities into masks.
        pictures: is given every image to draw.
        skip_bad: go on behind a file that cannot be read; otherwise the rest is only read, to name
            all such files.
        only_read: do so from the first image on.

    Returns:
        The predictions in the loader's order, and what could not be predicted.
    """
    predictions, problems = [], []
    with tqdm(
        desc="predict", total=len(loader.dataset), unit="image", disable=not fabric.is_global_zero
    ) as bar:
        for batch in loader:
            problems += batch.problems
            only_read = only_read or bool(problems and not skip_bad)
            if batch.loaded and not only_read:
                images = [part.to(fabric.device, non_blocking=True) for part in batch.images]
                wholes = blend(images, [(item.height, item.width) for item in batch.loaded])
                for item, whole in zip(batch.loaded, wholes, strict=True):
                    try:
                        predictions.append(_conclude(item, whole, rule, pictures))
                    except InputError as error:
                        problems.append(Problem(item.source.id, str(error)))
            bar.update(len(batch.loaded) + len(batch.problems))
    return predictions, problems


@torch.inference_mode()
def _conclude(item: Loaded, whole: Whole, rule: PostProcess, pictures: Pictures) -> Prediction:
    try:
        whole.check()
    except InputError as error:
        raise InputError(f"{item.source.path}: {error}") from error
    levels, deciding = whole.levels()
    mask = rule.mask(levels, deciding, whole.presence)
    probability = whole.largest() if whole.presence is None else whole.presence
    area = int(np.count_nonzero(mask))
    prediction = Prediction(item.source.id, encode(mask), probability, area)
    grey = None if item.grey is None else item.grey.numpy()
    pictures.write(prediction, grey, mask, levels)
    return prediction


def _collate(items: list[tuple[list[Tensor], Loaded] | Problem]) -> Batch:
    problems = [item for item in items if isinstance(item, Problem)]
    good = [item for item in items if not isinstance(item, Problem)]
    images = [torch.stack(part) for part in zip(*(seen for seen, _ in good), strict=True)]
    return Batch(images, [loaded for _, loaded in good], problems)
