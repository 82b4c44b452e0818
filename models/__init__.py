"""Networks by name: `build_model(model_type)` gives [B,3,H,W] float32 -> logits [B,1,H,W].

Every network has `.encoder`: the part that pretrained weights go into and that can be held frozen,
or None.
"""

import difflib
import math
from collections.abc import Callable
from pathlib import Path

from torch import nn

from models.backboned_unet import Unet
from models.weights import load_encoder
from utils.errors import InputError

_NETWORKS: dict[str, Callable[[bool], nn.Module]] = {
    "unet_resnet34": lambda pretrained: Unet("resnet34", pretrained=pretrained, classes=1),
}
_LEAST_PRIOR = 1e-4


def model_types() -> list[str]:
    """Return the names that `build_model` knows."""
    return sorted(_NETWORKS)


def build_model(
    model_type: str,
    pretrained: bool = True,
    encoder_weights: str | Path | None = None,
    prior: float = 0.01,
) -> nn.Module:
    """Build a network that maps [B,3,H,W] float32 images to [B,1,H,W] logits.

    Args:
        model_type: one of `model_types()`.
        pretrained: fetch ImageNet weights for the encoder, unless `encoder_weights` gives them.
        encoder_weights: a file with weights for the encoder; no network is then needed.
        prior: probability of a mask that the untrained network gives a pixel, on the whole.

    Raises:
        InputError: the name is unknown, or the weights cannot be had or do not fit.
    """
    if model_type not in _NETWORKS:
        near = difflib.get_close_matches(model_type, _NETWORKS, n=1, cutoff=0)[0]
        raise InputError(
            f"unknown --model_type {model_type!r}; did you mean {near!r}? "
            f"Known: {', '.join(model_types())}"
        )
    model = _NETWORKS[model_type](pretrained and encoder_weights is None)
    # Training would spend its first epochs on this bias alone, as so few pixels belong to a mask
    # (Lin et al. 2017, arXiv 1708.02002, section 3.3).
    prior = min(max(prior, _LEAST_PRIOR), 1 - _LEAST_PRIOR)
    nn.init.constant_(model.final_conv.bias, math.log(prior / (1 - prior)))
    if encoder_weights is not None:
        load_encoder(model.encoder, encoder_weights)
    return model
