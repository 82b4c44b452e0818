"""Networks as one: the mean over those of a run, and the weighted mean over several runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from models.inputs import normalise
from models.interface import read_output
from utils.errors import InputError
from utils.postprocessing.histograms import resize_probability, to_levels


class Maps(NamedTuple):
    """What a run says about a batch.

    Attributes:
        drawn: [B,1,S,S] float32, probability of a mask at each pixel, for drawing it.
        deciding: [B,1,S,S] float32, likewise, for deciding whether there is one at all; the very
            tensor `drawn` where the same networks do both.
        presence: [B] float32, probability of a mask anywhere; None without a presence head.
    """

    drawn: Tensor
    deciding: Tensor
    presence: Tensor | None


class Ensemble(nn.Module):
    """Mean probability over networks, and over each image and its mirror image.

    Args:
        fabric: knows device and precision.
        drawing: the networks that draw masks, [B,3,H,W] float32 -> logits [B,1,H,W], or both these
            and the logits [B,1] of a presence head; they are moved to the device and put into
            evaluation mode.
        mirror: predict every image flipped left to right as well.
        deciding: the networks that decide whether there is a mask, where others than `drawing` do.
    """

    def __init__(
        self,
        fabric: Fabric,
        drawing: Iterable[nn.Module],
        mirror: bool,
        deciding: Iterable[nn.Module] | None = None,
    ):
        super().__init__()
        self.fabric = fabric
        self.drawing = nn.ModuleList(drawing)
        self.deciding = None if deciding is None else nn.ModuleList(deciding)
        self.mirror = mirror
        self.eval().to(fabric.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Maps:
        """Predict a batch on the device, [B,1,S,S] uint8 grey."""
        drawn, presence = self._predict(self.drawing, image)
        if self.deciding is None:
            return Maps(drawn, drawn, presence)
        return Maps(drawn, *self._predict(self.deciding, image))

    def _predict(self, networks: nn.ModuleList, image: Tensor) -> tuple[Tensor, Tensor | None]:
        probability, presence = self._mean(networks, image)
        if self.mirror:
            mirrored, also = self._mean(networks, image.flip(-1))
            probability = (probability + mirrored.flip(-1)) / 2
            presence = None if presence is None else (presence + also) / 2
        return probability, presence

    def _mean(self, networks: nn.ModuleList, image: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels, total, present = normalise(image), 0.0, []
        for network in networks:
            with self.fabric.autocast():
                output = read_output(network(pixels))
            total = total + torch.sigmoid(output.logits.float())
            if output.presence is not None:
                present.append(torch.sigmoid(output.presence.float())[:, 0])
        return total / len(networks), torch.stack(present).mean(dim=0) if present else None


class View(NamedTuple):
    """How a run is shown an image: the side of its square input in pixels, and CLAHE or not."""

    size: int
    clahe: bool


class Whole(NamedTuple):
    """What is predicted of one image, at its original size.

    Attributes:
        drawn: [H,W] float32, see `Maps`.
        deciding: [H,W] float32; the very tensor `drawn` where that decides.
        presence: from 0 to 1, or None.
    """

    drawn: Tensor
    deciding: Tensor
    presence: float | None

    def check(self) -> None:
        """Refuse what is not a probability.

        Raises:
            InputError: a number is not from 0 to 1.
        """
        for largest in (self.drawn.max().item(), self.largest(), self.presence or 0.0):
            if not 0 <= largest <= 1:
                raise InputError(f"the predicted probability is {largest}; try --precision 32-true")

    def largest(self) -> float:
        """Return the largest probability of the deciding map."""
        return self.deciding.max().item()

    def levels(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the levels of both maps, [H,W] uint8; None for the second if it is the first."""
        drawn = to_levels(self.drawn).cpu().numpy()
        if self.deciding is self.drawn:
            return drawn, None
        return drawn, to_levels(self.deciding).cpu().numpy()


class Blend:
    """The weighted mean of runs, taken at each image's original size.

    Args:
        ensembles: one for each run, [B,1,S,S] uint8 on the device -> `Maps`.
        views: how each run is shown an image.
        weights: above 0, one for each run.

    Attributes:
        views: the different ones among them, in the order in which a batch gives its images.
    """

    def __init__(
        self,
        ensembles: Sequence[Callable[[Tensor], Maps]],
        views: Sequence[View],
        weights: Sequence[float],
    ):
        self.views = list(dict.fromkeys(views))
        self._ensembles = ensembles
        self._places = [self.views.index(view) for view in views]
        self._weights = weights

    def __call__(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Iterator[Whole]:
        """Predict a batch; yield its images one by one, so that one full-size map exists at a time.

        Args:
            images: for each of `views` the batch, [B,1,S,S] uint8 on the device.
            sizes: height and width of the B originals.
        """
        maps = [
            ensemble(images[place])
            for ensemble, place in zip(self._ensembles, self._places, strict=True)
        ]
        for index, size in enumerate(sizes):
            yield self._whole(maps, index, size)

    @torch.inference_mode()
    def _whole(self, maps: list[Maps], index: int, size: tuple[int, int]) -> Whole:
        drawn = self._mean(resize_probability(part.drawn[index, 0], *size) for part in maps)
        deciding = drawn
        if any(part.deciding is not part.drawn for part in maps):
            deciding = self._mean(
                resize_probability(part.deciding[index, 0], *size) for part in maps
            )
        presence = None
        if all(part.presence is not None for part in maps):
            presence = self._mean(part.presence[index] for part in maps).item()
        return Whole(drawn, deciding, presence)

    def _mean(self, parts: Iterable[Tensor]) -> Tensor:
        """Average as a running mean: what all parts agree on is left exactly as it is."""
        pairs = zip(parts, self._weights, strict=True)
        mean, total = next(pairs)
        for part, weight in pairs:
            total += weight
            mean = mean + (part - mean) * (weight / total)
        return mean
