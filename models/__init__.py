"""Networks by name: `build_model(model_type)` gives [B,3,H,W] float32 -> logits [B,1,H,W].

Every network has `.encoder`, the part that pretrained weights go into and that can be held frozen,
and `.size_step`, which the sides of an image must be multiples of. Its last convolution gives the
logits. With a presence head a network returns a tuple, the logits and one [B,1] for each image as a
whole; `outputs.read_output` takes either.
"""

import difflib
import math
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from models.backboned_unet import BACKBONES, Unet
from models.interface import encoder_of
from models.sizes import add_size_check
from models.smp import build_smp
from models.unet_family import VARIANTS, build_unet
from models.unused import unused_to_buffers
from models.weights import load_encoder
from utils.console import print0
from utils.errors import InputError

_PRETRAINED: dict[str, Callable[..., nn.Module]] = {
    **{f"unet_{name}": partial(Unet, name, classes=1) for name in BACKBONES},
    "linknet": partial(build_smp, "Linknet", "resnet34"),
    "deeplabv3plus": partial(build_smp, "DeepLabV3Plus", "resnet34"),
}
"""Networks whose encoder has pretrained weights to fetch, by `pretrained` and `presence_head`."""

_PATTERN = "smp:ARCHITECTURE:ENCODER"
_LEAST_PRIOR = 1e-4


def model_types() -> list[str]:
    """Return the names that `build_model` knows, but for those of the form smp:...:..."""
    return [*VARIANTS, *_PRETRAINED]


def describe_models() -> str:
    """List the names for a command's help."""
    names = ", ".join([*model_types(), _PATTERN])
    lines = textwrap.fill(
        names, 98, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
    return (
        f"Networks (--model_type):\n\n{lines}\n\n{_PATTERN} is any network of "
        "segmentation-models-pytorch, such as\nsmp:Unet:se_resnext50_32x4d or "
        "smp:UnetPlusPlus:tu-efficientnet_b4.\n"
    )


def build_model(
    model_type: str,
    pretrained: bool = True,
    encoder_weights: str | Path | None = None,
    t: int = 3,
    prior: float = 0.01,
    presence_head: bool = False,
) -> nn.Module:
    """Build a network that maps [B,3,H,W] float32 images to [B,1,H,W] logits.

    A batch whose sides are not multiples of the network's `size_step` raises an InputError.

    With a presence head, the encoder's deepest features also give, by their mean, the logit of a
    mask anywhere in the image, and the output is the tuple (logits, presence [B,1]). A loss has to
    depend on both: DDP waits for the gradients of the head, too. What the network is without the
    head keeps its names in the state dict.

    Args:
        model_type: one of `model_types()`, or smp:ARCHITECTURE:ENCODER.
        pretrained: fetch weights for the encoder, unless `encoder_weights` gives them.
        encoder_weights: a file with weights for the encoder; no network is then needed.
        t: recurrent steps of R2U_Net and R2AttU_Net.
        prior: probability of a mask that the untrained network gives a pixel, on the whole.
        presence_head: say also whether there is a mask at all; not for the networks of `VARIANTS`.

    Raises:
        InputError: the name is unknown, the network has no presence head, or the weights cannot be
            had or do not fit.
    """
    network = _build(model_type, pretrained and encoder_weights is None, t, presence_head)
    unused_to_buffers(network)
    _set_prior(network, prior)
    add_size_check(network)
    if encoder_weights is not None:
        load_encoder(encoder_of(network), encoder_weights)
    return network


def _build(model_type: str, pretrained: bool, t: int, presence_head: bool) -> nn.Module:
    if model_type in VARIANTS:
        if presence_head:
            raise InputError(
                f"--presence_weight above 0 needs a presence head, which {model_type} cannot have."
                f" Choose --model_type {', '.join(_PRETRAINED)} or {_PATTERN}, or give "
                "--presence_weight 0"
            )
        if pretrained:
            print0(
                f"warning: there are no pretrained weights for {model_type}, it starts at random"
            )
        return build_unet(model_type, t)
    if model_type in _PRETRAINED:
        return _PRETRAINED[model_type](pretrained=pretrained, presence_head=presence_head)
    kind, *parts = model_type.split(":")
    if kind == "smp" and len(parts) == 2:
        architecture, encoder = parts
        return build_smp(architecture, encoder, pretrained, presence_head)
    known = [*model_types(), _PATTERN]
    near = _PATTERN
    if kind != "smp":
        near = difflib.get_close_matches(model_type, known, n=1, cutoff=0)[0]
    raise InputError(
        f"unknown --model_type {model_type!r}; did you mean {near!r}? Known: {', '.join(known)}"
    )


def _set_prior(network: nn.Module, prior: float) -> None:
    """Start the output at the log-odds of `prior`.

    Training would spend its first epochs on this bias alone, as so few pixels belong to a mask
    (Lin et al. 2017, arXiv 1708.02002, section 3.3).
    """
    prior = min(max(prior, _LEAST_PRIOR), 1 - _LEAST_PRIOR)
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert last.bias is not None, "every network ends in a convolution with a bias"
    nn.init.constant_(last.bias, math.log(prior / (1 - prior)))
