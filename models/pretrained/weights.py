"""Weights to start from: of an encoder, fetched or read from a file, or of a whole network."""

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from models.pretrained.names import is_part_of, match_names, modern_name
from utils.console import print0
from utils.errors import InputError
from utils.safe_load import load_file, reason_of

_PRESENCE_HEADS = ("presence_head.", "classification_head.")
"""What the weights of a presence head begin with, in `backboned_unet` and in `smp`."""
_MAX_NAMED = 3
INSTEAD = (
    "use --pretrained false to train from scratch, or --encoder_weights FILE to load a state dict "
    "of the encoder"
)
"""What to do without the pretrained weights that were asked for."""


def fetch_imagenet(torchvision_name: str) -> dict[str, Tensor]:
    """Fetch torchvision's ImageNet weights (version 1) of a network, or read them from its cache.

    Raises:
        InputError: they are not cached and cannot be downloaded, or are damaged.
    """
    weights = torchvision.models.get_model_weights(torchvision_name)["IMAGENET1K_V1"]
    print0(f"pretrained encoder: {weights} from {weights.url} (cache: {torch.hub.get_dir()})")
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"could not fetch {weights.url} ({reason_of(error)}); {INSTEAD}"
        ) from error
    return {modern_name(name): value for name, value in state.items()}


def load_encoder(encoder: nn.Module | None, path: str | Path) -> None:
    """Load the weights of an encoder from its state dict or from a checkpoint of a network.

    Raises:
        InputError: the file cannot be read or does not fit this encoder.
    """
    where = f"--encoder_weights {path}"
    if encoder is None:
        raise InputError(f"{where}: this network has no encoder; leave the flag out")
    content = load_file(path)
    state = content.get("state_dict", content)
    loaded = fill_encoder(encoder, state, where, "choose a file of the same encoder")
    print0(f"encoder weights from {path}: {loaded}")


def fill_encoder(encoder: nn.Module, state: Mapping[str, object], where: str, advice: str) -> str:
    """Load the weights of an encoder from a state dict in any naming that `names` knows.

    Tensors of other parts of a network, such as a classifier, are left out.

    Args:
        encoder: the encoder.
        state: tensors by name; other values are left out.
        where: what the state dict comes from, for errors.
        advice: what to do next, for errors.

    Returns:
        How many weights were loaded, and what was left out.

    Raises:
        InputError: weights are missing or have another shape, or there are more in the encoder's
            own layers, as in a deeper network of the same family. The encoder is unchanged.
    """
    own = encoder.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    matched = match_names(own, tensors)
    fitting = {matched[name]: value for name, value in tensors.items() if matched[name] in own}
    left = [name for name in tensors if matched[name] not in own]
    counts = Counter(matched.values())
    # A file without counters of batches was written before torch 0.4.1.
    needed = [key for key in own if "num_batches_tracked" not in key]
    problems = [f"{key} is missing" for key in needed if key not in fitting]
    problems += [f"{key} is there {counts[key]} times" for key in fitting if counts[key] > 1]
    problems += _wrong_shapes(own, fitting)
    problems += [f"{name} is unexpected" for name in left if is_part_of(own, matched[name])]
    if problems:
        raise InputError(
            f"{where}: {len(problems)} tensors do not fit the encoder's {len(own)}: "
            f"{_list(problems)}; {advice}"
        )
    encoder.load_state_dict(fitting, strict=False)
    return f"{len(fitting)} tensors loaded, {len(left)} left out" + (
        f" ({_list(left, ', ')})" if left else ""
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
    problems += _wrong_shapes(own, state)
    if problems:
        raise InputError(
            f"--init_from {path}: {len(problems)} of its weights do not fit the network: "
            f"{_list(problems)}. Choose a checkpoint of the same network"
        )
    network.load_state_dict(state, strict=False)
    return bool(head)


def _shape(value: object) -> str:
    return "x".join(map(str, value.shape)) or "one value" if isinstance(value, Tensor) else "none"


def _wrong_shapes(own: dict[str, Tensor], state: Mapping[str, object]) -> list[str]:
    return [
        f"{key} is {_shape(state[key])}, not {_shape(own[key])}"
        for key in own
        if key in state and _shape(state[key]) != _shape(own[key])
    ]


def _list(words: list[str], separator: str = "; ") -> str:
    return separator.join(words[:_MAX_NAMED] + ["..."] * (len(words) > _MAX_NAMED))
