"""Networks by name: `build_model(model_type)` maps [B,3,H,W] float32 to logits [B,1,H,W].

Every network has `.encoder`, the part that takes pretrained weights and can be frozen, and
`.size_step`, of which the sides of an image must be multiples. Its last convolution computes the
logits. With a presence head a network returns a tuple: the logits, and one image-level logit,
[B,1]; `interface.read_output` accepts both forms.
"""

import difflib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from models.backboned_unet import Unet
from models.interface import encoder_of
from models.names import BACKBONES, SMP_PATTERN, U_NETS, model_types
from models.pretrained.weights import load_encoder
from models.sizes import add_size_check
from models.smp import build_smp
from models.unet_family import build_unet
from models.unused import unused_to_buffers
from utils.console import print0
from utils.errors import InputError

_PRETRAINED: dict[str, Callable[..., nn.Module]] = {
    **{f"unet_{name}": partial(Unet, name, classes=1) for name in BACKBONES},
    "linknet": partial(build_smp, "Linknet", "resnet34"),
    "deeplabv3plus": partial(build_smp, "DeepLabV3Plus", "resnet34"),
}
"""Networks with pretrained encoders; arguments: `pretrained`, `presence_head`."""

_MIN_PRIOR = 1e-4


def build_model(
    model_type: str,
    pretrained: bool = True,
    encoder_weights: str | Path | None = None,
    t: int = 3,
    prior: float = 0.01,
    presence_head: bool = False,
) -> nn.Module:
    """Build a network that maps [B,3,H,W] float32 images to [B,1,H,W] logits.

    The network raises an InputError for images whose sides are not multiples of its `size_step`.

    With a presence head, the mean of the encoder's deepest features is also mapped to the logit of
    a mask anywhere in the image, and the output is the tuple (logits, presence [B,1]). A loss must
    depend on both, because DDP also waits for the gradients of the head. All other parameters have
    the same names in the state dict with and without the head.

    Args:
        model_type: one of `model_types()`, or smp:ARCHITECTURE:ENCODER.
        pretrained: fetch weights for the encoder, unless `encoder_weights` is given.
        encoder_weights: file with weights for the encoder; nothing is downloaded then.
        t: recurrent steps of R2U_Net and R2AttU_Net.
        prior: average probability that the untrained network predicts for a pixel.
        presence_head: add a presence head; not for the networks in `U_NETS`.

    Raises:
        InputError: the name is unknown, the network cannot have a presence head, or the weights
            cannot be fetched or do not fit.
    """
    network = _build(model_type, pretrained and encoder_weights is None, t, presence_head)
    unused_to_buffers(network)
    _set_prior(network, prior)
    add_size_check(network)
    if encoder_weights is not None:
        load_encoder(encoder_of(network), encoder_weights)
    return network


def _build(model_type: str, pretrained: bool, t: int, presence_head: bool) -> nn.Module:
    if model_type in U_NETS:
        if presence_head:
            raise InputError(
                f"--presence_weight above 0 needs a presence head, which {model_type} cannot have."
                f" Choose --model_type {', '.join(_PRETRAINED)} or {SMP_PATTERN}, or set "
                "--presence_weight 0"
            )
        if pretrained:
            print0(
                f"warning: no pretrained weights for {model_type}: its encoder starts from scratch"
            )
        return build_unet(model_type, t)
    if model_type in _PRETRAINED:
        return _PRETRAINED[model_type](pretrained=pretrained, presence_head=presence_head)
    kind, *parts = model_type.split(":")
    if kind == "smp" and len(parts) == 2:
        architecture, encoder = parts
        return build_smp(architecture, encoder, pretrained, presence_head)
    known = [*model_types(), SMP_PATTERN]
    near = SMP_PATTERN
    if kind != "smp":
        near = difflib.get_close_matches(model_type, known, n=1, cutoff=0)[0]
    raise InputError(
        f"unknown --model_type {model_type!r}; did you mean {near!r}? Known: {', '.join(known)}"
    )


def _set_prior(network: nn.Module, prior: float) -> None:
    """Initialise the last bias to the log-odds of `prior`.

    So few pixels belong to a mask that training would otherwise spend its first epochs on this bias
    (Lin et al. 2017, arXiv 1708.02002, section 3.3).
    """
    prior = min(max(prior, _MIN_PRIOR), 1 - _MIN_PRIOR)
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert last.bias is not None, "every network ends in a convolution with a bias"
    nn.init.constant_(last.bias, math.log(prior / (1 - prior)))
