"""Weights to start from: of an encoder, fetched or read from a file, or of a whole network."""

import pickle
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from utils.console import print0
from utils.errors import InputError
from utils.safe_load import load_file, reason_of

_PREFIXES = ("module.", "backbone.", "encoder.", "features.")
"""Outermost first: from DDP, networks with an encoder, torchvision's VGG and DenseNet."""

_PRESENCE_HEADS = ("presence_head.", "classification_head.")
"""What the weights of a presence head begin with, in `backboned_unet` and in `smp`."""
_MAX_NAMED = 3


def fetch_imagenet(torchvision_name: str) -> dict[str, Tensor]:
    """Fetch torchvision's ImageNet weights (version 1) of a network, or read them from its cache.

    Raises:
        InputError: they are not cached and cannot be downloaded, or are damaged.
    """
    weights = torchvision.models.get_model_weights(torchvision_name)["IMAGENET1K_V1"]
    print0(f"pretrained encoder: {weights} from {weights.url} (cache: {torch.hub.get_dir()})")
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"could not fetch {weights.url} ({reason_of(error)}). Use --pretrained false to train "
            "from scratch, or --encoder_weights FILE to load a torchvision state dict"
        ) from error


def load_encoder(encoder: nn.Module | None, path: str | Path) -> None:
    """Load the weights of an encoder from its state dict or from a checkpoint of a network.

    Prints how many weights were loaded, missing and unexpected.

    Raises:
        InputError: the file cannot be read or lacks weights of this encoder.
    """
    if encoder is None:
        raise InputError(
            f"--encoder_weights {path}: this network has no encoder; leave the flag out"
        )
    content = load_file(path)
    state = content.get("state_dict", content)
    own = encoder.state_dict()
    renamed = {_as_in(own, key): value for key, value in state.items() if isinstance(value, Tensor)}
    fitting = {k: v for k, v in renamed.items() if k in own and v.shape == own[k].shape}
    missing = [key for key in own if key not in fitting and "num_batches_tracked" not in key]
    if missing:
        raise InputError(
            f"--encoder_weights {path}: {len(missing)} of the encoder's {len(own)} weights are "
            f"missing or have another shape, the first {missing[0]!r}; choose a file of the same "
            "encoder"
        )
    encoder.load_state_dict(fitting, strict=False)
    unexpected = sorted(renamed.keys() - own.keys())
    print0(
        f"encoder weights from {path}: {len(fitting)} loaded, 0 missing, "
        f"{len(unexpected)} unexpected {unexpected[:2] if unexpected else ''}".rstrip()
    )


def load_network(network: nn.Module, state: dict[str, Tensor], path: str | Path) -> bool:
    """Load all weights of a trained network into one that is to be trained further.

    Args:
        network: the network.
        state: the state dict of the trained network.
        path: the file that it came from, for errors.

    Returns:
        Whether the state dict lacks the presence head, which then keeps its initial weights.

    Raises:
        InputError: other weights are missing, or weights are unexpected or have another shape; the
            message names them.
    """
    own = network.state_dict()
    head = [key for key in own if key not in state and key.startswith(_PRESENCE_HEADS)]
    problems = [f"{key} is missing" for key in own if key not in state and key not in head]
    problems += [f"{key} is unexpected" for key in state if key not in own]
    problems += [
        f"{key} is {_shape(state[key])}, not {_shape(own[key])}"
        for key in own
        if key in state and _shape(state[key]) != _shape(own[key])
    ]
    if problems:
        raise InputError(
            f"--init_from {path}: {len(problems)} of its weights do not fit the network: "
            + "; ".join(problems[:_MAX_NAMED] + ["..."] * (len(problems) > _MAX_NAMED))
            + ". Choose a checkpoint of the same network"
        )
    network.load_state_dict(state, strict=False)
    return bool(head)


def _shape(value: object) -> str:
    return "x".join(map(str, value.shape)) or "one value" if isinstance(value, Tensor) else "none"


def _as_in(own: dict, key: str) -> str:
    """Strip prefixes from a key until the encoder has it, or none is left."""
    for prefix in _PREFIXES:
        if key in own:
            return key
        key = key.removeprefix(prefix)
    # segmentation-models-pytorch nests timm's networks one level deeper.
    return f"model.{key}" if f"model.{key}" in own else key
