"""Predicts the validation images of a fold with that fold's networks; measures the maps.

Thresholds are chosen on these histograms, so images are predicted as predict.py does, but for one
thing: it averages the networks of all folds, whose maps have lower peaks than those of one fold's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.sources.base import Pixels
from datasets.workers import Loader
from utils.config.tta import NO_TTA, TTA
from utils.console import print0
from utils.distributed import decide_on_rank_zero, gather
from utils.inference.ensemble import Blend, open_blend
from utils.inference.loop import make_batch, open_prediction_loader, predict_batch
from utils.inference.maps import Batch
from utils.inference.runs import Checkpoints, View, WeightedRun, device_batch_size
from utils.parallel import map_in_order
from utils.postprocessing.components import MAX_COMPONENTS, find_components
from utils.postprocessing.histograms import Histograms
from utils.postprocessing.maps.tensors import count_levels


class OutOfFoldRow(NamedTuple):
    """One image's row of `Histograms`: small enough to send between processes.

    Attributes:
        id: image id.
        height: pixels.
        width: pixels.
        all: [256] int32, see `Histograms`.
        mask: [256] int32, see `Histograms`.
        gate: [256] int32, see `Histograms`; None if the probability map is the gate map.
        presence: probability; None without a presence head.
        maximum: largest probability of the gate map; None if only its level is known.
        components: [C,4] int64, see `find_components`; None if there are too many.
    """

    id: str
    height: int
    width: int
    all: np.ndarray
    mask: np.ndarray
    gate: np.ndarray | None
    presence: float | None
    maximum: float | None
    components: np.ndarray | None


class PredictedMaps(NamedTuple):
    """The prediction of one image at its original size, and its true mask.

    Attributes:
        id: image id.
        levels: [H,W] uint8, level floor(255 p) of the probability map.
        mask: [H,W] uint8 of 0 and 1, the truth.
        gate: [H,W] uint8, levels of the gate map; None if it is `levels`.
        presence: probability of the presence head; None without one.
        maximum: largest probability of the gate map.
    """

    id: str
    levels: np.ndarray
    mask: np.ndarray
    gate: np.ndarray | None
    presence: float | None
    maximum: float


class OutOfFoldImage(NamedTuple):
    """An image with its true mask.

    Attributes:
        position: index in the data set.
        views: the image preprocessed for each view, uint8 [1,S,S].
        mask: uint8 [H,W] of 0 and 1, at the original size.
    """

    position: int
    views: list[Tensor]
    mask: Tensor


class OutOfFoldImages(Dataset):
    """`dataset[index]` -> `OutOfFoldImage`.

    Args:
        pixels: the images preprocessed for each view, in the same order.
    """

    def __init__(self, pixels: Sequence[Pixels]):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels[0])

    def __getitem__(self, index: int) -> OutOfFoldImage:
        """Return one image for every view, with its mask."""
        triples = [view.triple(index) for view in self.pixels]
        views = [torch.from_numpy(image)[None] for image, _, _ in triples]
        return OutOfFoldImage(index, views, torch.from_numpy(triples[0][2]))


def write_out_of_fold(
    fabric: Fabric,
    runs: Sequence[WeightedRun],
    checkpoints: Sequence[Checkpoints],
    pixels_of: Callable[[View], Pixels],
    ids: Sequence[str],
    path: Path,
    num_workers: int,
    batch_size: int | None = None,
    tta: TTA = NO_TTA,
) -> None:
    """Predict the validation images of a fold and write oof.npz.

    Args:
        fabric: knows device and processes.
        runs: the runs that predict together.
        checkpoints: of each run, networks that were not trained on these images.
        pixels_of: returns the images as a view shows them, in the order of `ids`.
        ids: of the images.
        path: the file to write, from rank 0.
        num_workers: data loading processes per device.
        batch_size: images per batch on each device; None for the runs' own.
        tta: test-time augmentation.

    Raises:
        InputError: an image or a checkpoint cannot be used, or the file cannot be written.
    """
    blend = open_blend(fabric, runs, checkpoints, tta)
    batch_size = batch_size or device_batch_size(runs, fabric.world_size)
    pixels = [pixels_of(view) for view in blend.views]
    histograms = predict_out_of_fold(fabric, blend, pixels, ids, batch_size, num_workers)
    decide_on_rank_zero(fabric, lambda: histograms.save(path))


def predict_out_of_fold(
    fabric: Fabric,
    blend: Blend,
    pixels: Sequence[Pixels],
    ids: Sequence[str],
    batch_size: int,
    num_workers: int,
) -> Histograms:
    """Predict images of a fold and measure the maps at their original sizes.

    Each process predicts its share, and measures in threads while the device computes.

    Args:
        fabric: device and processes.
        blend: networks that were not trained on these images.
        pixels: the images preprocessed for each of `blend.views`.
        ids: image ids, in the order of `pixels`.
        batch_size: images per batch on each device.
        num_workers: data loading processes per device.

    Returns:
        The histograms in the order of `ids`, the same in every process.

    Raises:
        InputError: an image cannot be read, or a prediction is not a probability.
    """
    mine = range(fabric.global_rank, len(ids), fabric.world_size)
    loader = _open_loader(pixels, batch_size, num_workers, mine)
    rows = map_in_order(
        lambda maps: measure_prediction(*maps), _predict(fabric, blend, loader, ids)
    )
    bar = tqdm(
        rows,
        "predict out of fold",
        len(mine),
        unit="image",
        leave=False,
        disable=not fabric.is_global_zero,
    )
    measured = gather(fabric, list[OutOfFoldRow](bar))
    _warn_too_many_components(measured)
    return collect_histograms(ids, measured)


def predict_maps(
    fabric: Fabric, blend: Blend, pixels: Sequence[Pixels], ids: Sequence[str], batch_size: int
) -> Iterator[PredictedMaps]:
    """Predict a few images in this process alone, without a worker process.

    Args:
        fabric: the device.
        blend: networks that were not trained on these images.
        pixels: the images preprocessed for each of `blend.views`.
        ids: image ids, in the order of `pixels`.
        batch_size: images per batch.

    Raises:
        InputError: an image cannot be read, or a prediction is not a probability.
    """
    loader = _open_loader(pixels, batch_size, 0, range(len(ids)))
    return _predict(fabric, blend, loader, ids)


def measure_prediction(
    id: str,
    levels: np.ndarray,
    mask: np.ndarray,
    gate: np.ndarray | None = None,
    presence: float | None = None,
    maximum: float | None = None,
) -> OutOfFoldRow:
    """Measure one prediction at its image's original size.

    Args:
        id: image id.
        levels: [H,W] uint8, level floor(255 p) of the probability map.
        mask: [H,W] uint8 of 0 and 1, the truth.
        gate: [H,W] uint8, levels of the gate map; None if it is `levels`.
        presence: probability of the presence head; None without one.
        maximum: largest probability of the gate map; None if only its level is known.
    """
    everything, inside = _count(levels, mask)
    gate_counts = None if gate is None else _count(gate, mask)[0]
    components = find_components(levels, mask)
    height, width = levels.shape
    return OutOfFoldRow(
        id, height, width, everything, inside, gate_counts, presence, maximum, components
    )


def collect_histograms(ids: Sequence[str], rows: Iterable[OutOfFoldRow]) -> Histograms:
    """Assemble histograms from rows; components are kept only if every image has them.

    Args:
        ids: one or more image ids, in the order of the result.
        rows: one per image, in any order; a gate, a presence and a maximum each in all or none.

    Raises:
        KeyError: an image has no row.
        ValueError: there are more rows than images, or only some have a gate, a presence or a
            maximum.
    """
    by_id = {row.id: row for row in rows}
    ordered = [by_id.pop(name) for name in ids]
    if by_id:
        raise ValueError(f"rows for unknown images: {sorted(by_id)[:3]}")
    for name in ("gate", "presence", "maximum"):
        if len({getattr(row, name) is None for row in ordered}) > 1:
            raise ValueError(f"some images have a {name} and some have none")
    column = {name: [getattr(row, name) for row in ordered] for name in OutOfFoldRow._fields}
    first = ordered[0]
    return Histograms(
        ids=np.array(ids),
        height=np.array(column["height"], np.int32),
        width=np.array(column["width"], np.int32),
        all=np.stack(column["all"]),
        mask=np.stack(column["mask"]),
        gate=None if first.gate is None else np.stack(column["gate"]),
        presence=None if first.presence is None else np.array(column["presence"], np.float32),
        maximum=None if first.maximum is None else np.array(column["maximum"], np.float32),
        components=_join_components(column["components"]),
    )


def _open_loader(
    pixels: Sequence[Pixels], batch_size: int, num_workers: int, positions: Sequence[int]
) -> Loader:
    images = OutOfFoldImages(pixels)
    return open_prediction_loader(images, batch_size, num_workers, _collate, positions)


def _predict(
    fabric: Fabric, blend: Blend, loader: Loader, ids: Sequence[str]
) -> Iterator[PredictedMaps]:
    for batch in loader:
        for image, maps in predict_batch(fabric, blend, batch):
            name = ids[image.position]
            maps.check(f"image {name}")
            yield PredictedMaps(
                name, maps.levels, image.mask.numpy(), maps.gate, maps.presence, maps.gate_maximum
            )


def _collate(items: list[OutOfFoldImage]) -> Batch[OutOfFoldImage]:
    sizes = [(item.mask.shape[0], item.mask.shape[1]) for item in items]
    # The batch holds the views; keeping them in its items too would send them twice.
    return make_batch([i.views for i in items], sizes, [i._replace(views=[]) for i in items])


def _count(levels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    # A flipped map is a view with negative strides, which torch does not accept.
    pixels = (torch.from_numpy(np.ascontiguousarray(array)) for array in (levels, mask))
    return count_levels(*pixels).numpy()


def _join_components(tables: list[np.ndarray | None]) -> np.ndarray | None:
    """Concatenate the components of all images, with the index of the image as first column."""
    present = [table for table in tables if table is not None]
    if len(present) < len(tables):
        return None
    positions = np.repeat(np.arange(len(present)), [len(table) for table in present])
    return np.column_stack((positions, np.concatenate(present)))


def _warn_too_many_components(rows: list[OutOfFoldRow]) -> None:
    count = sum(row.components is None for row in rows)
    if count:
        print0(
            f"warning: the maps of {count} of {len(rows)} images have more than {MAX_COMPONENTS} "
            "components each; thresholds are searched without component filters"
        )
