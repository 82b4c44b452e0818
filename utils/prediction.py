"""Images in, one row each out: at most a batch of full-size maps is in memory."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.images import preprocess, read_image
from utils.errors import InputError
from utils.metric import resize_probability, to_levels
from utils.pictures import Pictures
from utils.rle import encode
from utils.submission import Prediction, Problem, Source
from utils.threshold import PostProcess


class Loaded(NamedTuple):
    """An image as it is fed to the network.

    Attributes:
        source: which image.
        image: [1,S,S] uint8 grey, preprocessed.
        height: of the original, in pixels.
        width: of the original, in pixels.
        grey: [H,W] uint8, the original; None unless asked for.
    """

    source: Source
    image: Tensor
    height: int
    width: int
    grey: np.ndarray | None


class Batch(NamedTuple):
    """The images of a batch that could be read, and those that could not."""

    loaded: list[Loaded]
    problems: list[Problem]


class ImageFiles(Dataset):
    """Preprocessed images: `dataset[index]` -> `Loaded`, or the `Problem` with the file.

    Args:
        sources: the images.
        size: side of the network's square input in pixels.
        clahe: equalise the local contrast.
        keep_original: give the image at its original size as well.
    """

    def __init__(self, sources: list[Source], size: int, clahe: bool, keep_original: bool):
        self.sources = sources
        self.size = size
        self.clahe = clahe
        self.keep_original = keep_original

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Loaded | Problem:
        """Read one image; a file that cannot be read is no error here, but a `Problem`."""
        source = self.sources[index]
        try:
            grey = read_image(source.path)
            image = torch.from_numpy(preprocess(grey, self.size, self.clahe))[None]
        except InputError as error:
            return Problem(source.id, str(error))
        return Loaded(source, image, *grey.shape, grey if self.keep_original else None)


def open_loader(dataset: ImageFiles, batch_size: int, num_workers: int) -> DataLoader:
    """Load `Batch`es of at most `batch_size` images in order, in worker processes."""
    batches = -(-len(dataset) // batch_size)
    return DataLoader(
        dataset,
        batch_size,
        num_workers=min(num_workers, batches),
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_init_worker,
    )


def predict_images(
    fabric: Fabric,
    ensemble: Callable[[Tensor], Tensor],
    loader: DataLoader,
    rule: PostProcess,
    pictures: Pictures,
    skip_bad: bool,
) -> tuple[list[Prediction], list[Problem]]:
    """Predict the images of a loader.

    Args:
        fabric: knows the device.
        ensemble: [B,1,S,S] uint8 on the device -> probability [B,1,S,S] float32.
        loader: gives `Batch`.
        rule: turns probabilities into masks.
        pictures: is given every image to draw.
        skip_bad: go on behind a file that cannot be read; otherwise the rest is only read, to find
            the other such files.

    Returns:
        The predictions in the loader's order, and what could not be predicted.
    """
    predictions, problems = [], []
    bar = tqdm(total=len(loader.dataset), unit="image", disable=not fabric.is_global_zero)
    with bar:
        for batch in loader:
            problems += batch.problems
            if batch.loaded and (skip_bad or not problems):
                images = torch.stack([item.image for item in batch.loaded])
                maps = ensemble(images.to(fabric.device, non_blocking=True))
                for item, probability in zip(batch.loaded, maps[:, 0], strict=True):
                    try:
                        predictions.append(_conclude(item, probability, rule, pictures))
                    except InputError as error:
                        problems.append(Problem(item.source.id, str(error)))
            bar.update(len(batch.loaded) + len(batch.problems))
    return predictions, problems


@torch.inference_mode()
def _conclude(
    item: Loaded, probability: Tensor, rule: PostProcess, pictures: Pictures
) -> Prediction:
    full = resize_probability(probability, item.height, item.width)
    largest = full.max().item()
    if not 0 <= largest <= 1:
        raise InputError(
            f"{item.source.path}: the predicted probability is {largest}; try --precision 32-true"
        )
    levels = to_levels(full).cpu().numpy()
    mask = rule.mask(levels)
    prediction = Prediction(item.source.id, encode(mask), largest, int(np.count_nonzero(mask)))
    pictures.write(prediction, item.grey, mask, levels)
    return prediction


def _collate(items: list[Loaded | Problem]) -> Batch:
    return Batch(
        [item for item in items if isinstance(item, Loaded)],
        [item for item in items if isinstance(item, Problem)],
    )


def _init_worker(_: int) -> None:
    # OpenCV would start threads of its own in each worker.
    cv2.setNumThreads(0)
