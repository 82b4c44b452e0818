"""Ensembles: the mean over the networks of a run, and the weighted mean over several runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from models.build import build_model
from models.cpu.fusion import fold_batch_norms
from models.exact_encoder import compute_encoder_in_float32
from models.interface import Output, normalise, read_output
from models.sizes import check_scales, scaled_sizes
from utils.config.normalisation import IMAGENET, Normalisation
from utils.config.settings import Config
from utils.config.tta import NO_TTA, TTA
from utils.errors import InputError
from utils.inference.maps import LevelMaps
from utils.inference.runs import Checkpoints, View, WeightedRun, view_of
from utils.postprocessing.maps.tensors import resize_probability, to_levels
from utils.safe_load import reason_of
from utils.training.checkpoints import load_checkpoint


class ProbabilityMaps(NamedTuple):
    """The prediction of a run for a batch.

    Attributes:
        probability: [B,1,S,S] float32, probability of each pixel to belong to the mask.
        gate: [B,1,S,S] float32, the gate map, which decides whether there is a mask at all; the
            same tensor as `probability` if the same networks predict both.
        presence: [B] float32, probability that there is a mask; None without a presence head.
    """

    probability: Tensor
    gate: Tensor
    presence: Tensor | None


class FullSizeMaps(NamedTuple):
    """The prediction for one image, at its original size.

    Attributes:
        probability: [H,W] float32, see `ProbabilityMaps`.
        gate: [H,W] float32; the same tensor as `probability` if that is the gate map.
        presence: from 0 to 1, or None.
    """

    probability: Tensor
    gate: Tensor
    presence: float | None

    def to_level_maps(self) -> LevelMaps:
        """Return what the rule needs, in memory that is not the device's."""
        maximum, levels = self.probability.max().item(), to_levels(self.probability).cpu().numpy()
        if self.gate is self.probability:
            return LevelMaps(levels, None, maximum, maximum, self.presence)
        gate = to_levels(self.gate).cpu().numpy()
        return LevelMaps(levels, gate, maximum, self.gate.max().item(), self.presence)


class Ensemble(nn.Module):
    """Mean probability over networks, and over each image as test-time augmentation shows it.

    Args:
        fabric: device and precision.
        networks: predict the masks, [B,3,H,W] float32 -> logits [B,1,H,W], and logits [B,1] with a
            presence head. They are moved to the device and put into evaluation mode.
        tta: test-time augmentation.
        gate_networks: predict the gate map and presence; None if `networks` do.
        normalisation: of the images.
    """

    def __init__(
        self,
        fabric: Fabric,
        networks: Iterable[nn.Module],
        tta: TTA = NO_TTA,
        gate_networks: Iterable[nn.Module] | None = None,
        normalisation: Normalisation = IMAGENET,
    ):
        super().__init__()
        self.fabric = fabric
        self.networks = self._prepare(networks)
        self.gate_networks = None if gate_networks is None else self._prepare(gate_networks)
        self.tta = tta
        self.normalisation = normalisation
        self.eval().to(fabric.device)
        self.to(memory_format=torch.channels_last)

    def _prepare(self, networks: Iterable[nn.Module]) -> nn.ModuleList:
        """Set networks up to predict: in bfloat16 more exactly and, on a CPU, faster."""
        prepared = nn.ModuleList(networks).eval()
        if getattr(self.fabric.strategy.precision, "precision", None) != "bf16-mixed":
            return prepared
        device = self.fabric.device.type
        if device == "cpu":
            prepared = nn.ModuleList(map(fold_batch_norms, prepared))
        for network in prepared:
            compute_encoder_in_float32(network, device)
        return prepared

    @torch.inference_mode()
    def forward(self, image: Tensor, kept: list[Output] | None = None) -> ProbabilityMaps:
        """Predict a batch on the device.

        Args:
            image: [B,1,S,S] uint8 grey.
            kept: if given, receives the output of every network: `networks`, then `gate_networks`.
        """
        probability, presence = self._predict(self.networks, image, kept)
        if self.gate_networks is None:
            return ProbabilityMaps(probability, probability, presence)
        return ProbabilityMaps(probability, *self._predict(self.gate_networks, image, kept))

    def _predict(
        self, networks: nn.ModuleList, image: Tensor, kept: list[Output] | None
    ) -> tuple[Tensor, Tensor | None]:
        side = image.shape[-1]
        total: Tensor | float = 0.0
        presences, count = [], 0
        for size in scaled_sizes(networks[0], side) if self.tta.scales else [side]:
            scaled = _resize(image, size)
            for mirrored in (False, True) if self.tta.hflip else (False,):
                shown = scaled.flip(-1) if mirrored else scaled
                probability, presence = self._mean(networks, shown, kept)
                probability = _resize(probability, side)
                total = total + (probability.flip(-1) if mirrored else probability)
                count += 1
                if presence is not None:
                    presences.append(presence)
        mean = torch.as_tensor(total) / count
        return mean, torch.stack(presences).mean(dim=0) if presences else None

    def _mean(
        self, networks: nn.ModuleList, image: Tensor, kept: list[Output] | None
    ) -> tuple[Tensor, Tensor | None]:
        pixels = normalise(image, self.normalisation)
        total: Tensor | float = 0.0
        presences = []
        for network in networks:
            with self.fabric.autocast():
                output = read_output(network(pixels))
            if kept is not None:
                kept.append(output)
            total = total + torch.sigmoid(output.logits.float())
            if output.presence is not None:
                presences.append(torch.sigmoid(output.presence.float())[:, 0])
        mean = torch.as_tensor(total) / len(networks)
        return mean, torch.stack(presences).mean(dim=0) if presences else None


def _resize(images: Tensor, side: int) -> Tensor:
    """Resize images or maps, [B,1,S,S] -> [B,1,side,side]; float32 unless they have this side."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images.float(), (side, side), mode="bilinear", align_corners=False)


class Blend:
    """The weighted mean of runs, taken at each image's original size.

    Args:
        ensembles: one per run, [B,1,S,S] uint8 on the device -> `ProbabilityMaps`.
        views: preprocessing of each run.
        weights: above 0, one per run.

    Attributes:
        views: the distinct views, in the order of the image tensors of a batch.
    """

    def __init__(
        self,
        ensembles: Sequence[Callable[[Tensor], ProbabilityMaps]],
        views: Sequence[View],
        weights: Sequence[float],
    ):
        self.views = list(dict.fromkeys(views))
        self._ensembles = ensembles
        self._view_index = [self.views.index(view) for view in views]
        self._weights = weights

    def __call__(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Iterator[FullSizeMaps]:
        """Predict a batch; yield its images one by one, so that one full-size map exists at a time.

        Args:
            images: the batch for each of `views`, [B,1,S,S] uint8 on the device.
            sizes: height and width of the B originals, in pixels.
        """
        maps = [
            ensemble(images[index])
            for ensemble, index in zip(self._ensembles, self._view_index, strict=True)
        ]
        for index, size in enumerate(sizes):
            yield self._full_size(maps, index, size)

    @torch.inference_mode()
    def _full_size(
        self, maps: list[ProbabilityMaps], index: int, size: tuple[int, int]
    ) -> FullSizeMaps:
        probability = gate = self._mean(
            resize_probability(part.probability[index, 0], *size) for part in maps
        )
        if any(part.gate is not part.probability for part in maps):
            gate = self._mean(resize_probability(part.gate[index, 0], *size) for part in maps)
        presences = [part.presence for part in maps if part.presence is not None]
        presence = None
        if len(presences) == len(maps):
            presence = self._mean(part[index] for part in presences).item()
        return FullSizeMaps(probability, gate, presence)

    def _mean(self, parts: Iterable[Tensor]) -> Tensor:
        """Return the weighted mean; a running mean leaves values that all parts share unchanged."""
        pairs = zip(parts, self._weights, strict=True)
        mean, total = next(pairs)
        for part, weight in pairs:
            total += weight
            mean = mean + (part - mean) * (weight / total)
        return mean


def load_network(path: Path, config: Config) -> nn.Module:
    """Build a network with the weights of a checkpoint.

    Args:
        path: the checkpoint.
        config: the run's settings, which describe the network.

    Raises:
        InputError: the file is damaged or in the wrong place, belongs to another network, or its
            weights do not fit.
    """
    content, model_type = load_checkpoint(path), config.model_type
    if content.get("model_type") != model_type:
        raise InputError(
            f"{path} has model_type {content.get('model_type')!r}, but the run's config.yaml has "
            f"{model_type!r}"
        )
    network = build_model(
        model_type, pretrained=False, t=config.t, presence_head=config.presence_head
    )
    try:
        network.load_state_dict(content["state_dict"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{path} has no weights that fit {model_type}: {reason_of(error)}"
        ) from error
    return network


def open_ensemble(
    fabric: Fabric, config: Config, checkpoints: Checkpoints, tta: TTA = NO_TTA
) -> Ensemble:
    """Load the networks of checkpoints onto the device; `tta` as in `Ensemble`.

    Raises:
        InputError: see `load_network`; or the scales of `tta` have no effect.
    """
    networks, gates = ((load_network(path, config) for path in paths) for paths in checkpoints)
    same = checkpoints.gate == checkpoints.mask
    ensemble = Ensemble(fabric, networks, tta, None if same else gates, config.normalisation)
    if tta.scales:
        check_scales(ensemble.networks[0], view_of(config).size)
    return ensemble


def open_blend(
    fabric: Fabric,
    runs: Sequence[WeightedRun],
    checkpoints: Sequence[Checkpoints],
    tta: TTA = NO_TTA,
) -> Blend:
    """Load the networks of runs onto the device.

    Args:
        fabric: device and precision.
        runs: one or more runs.
        checkpoints: the checkpoints of each run.
        tta: test-time augmentation.

    Raises:
        InputError: see `open_ensemble`.
    """
    ensembles = [
        open_ensemble(fabric, run.config, paths, tta)
        for run, paths in zip(runs, checkpoints, strict=True)
    ]
    return Blend(ensembles, [view_of(run.config) for run in runs], [run.weight for run in runs])
