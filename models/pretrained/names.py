"""Tensor names: those of timm, torchvision and EfficientNet-PyTorch for the same encoder.

Wrappers (DDP, a network around its encoder) are prefixes. ResNets, VGGs and DenseNets have the same
names in torchvision and timm, but for the way that timm flattens containers. EfficientNets have
three sets of names. EfficientNet-PyTorch numbers its blocks through, so that its names follow from
either of the others, and serve to compare them.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

_WRAPPERS = ("module.", "backbone.", "encoder.", "model.")
"""Outermost first: from DDP, networks with an encoder, segmentation-models-pytorch around timm."""
_CONTAINER = "features."
"""Of torchvision's VGGs and DenseNets, whose encoder here is what this contains."""

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
"""DenseNet's names in the files that torchvision and timm download: norm.1, which became norm1."""


class _Kind(NamedTuple):
    """One way to name the tensors of an EfficientNet.

    Attributes:
        block: matches a tensor in a block: stage, block, layer, tensor.
        mark: the layer that only blocks with an expansion have.
        expanded: layers of a block with an expansion, in the order of `_EXPANDED`.
        plain: layers of a block without, in the order of `_PLAIN`.
        outer: layers outside of the blocks, in the order of `_OUTER`.
    """

    block: re.Pattern[str]
    mark: str
    expanded: tuple[str, ...]
    plain: tuple[str, ...]
    outer: tuple[str, ...]


_SQUEEZE = ("_se_reduce", "_se_expand")
_PLAIN = ("_depthwise_conv", "_bn1", *_SQUEEZE, "_project_conv", "_bn2")
_EXPANDED = ("_expand_conv", "_bn0", *_PLAIN)
_OUTER = ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc")
_SE = ("se.conv_reduce", "se.conv_expand")
_TIMM = _Kind(
    re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)\.(\w+)"),
    "conv_pwl",
    ("conv_pw", "bn1", "conv_dw", "bn2", *_SE, "conv_pwl", "bn3"),
    ("conv_dw", "bn1", *_SE, "conv_pw", "bn2"),
    ("conv_stem", "bn1", "conv_head", "bn2", "classifier"),
)
_TORCHVISION = _Kind(
    re.compile(r"features\.(\d+)\.(\d+)\.block\.(\d+\.\w+)\.(\w+)"),
    "3.0",
    ("0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0", "3.1"),
    ("0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1"),
    ("features.0.0", "features.0.1", "features.8.0", "features.8.1", "classifier.1"),
)


def match_names(own: Collection[str], names: Iterable[str]) -> dict[str, str]:
    """Translate the names of a file's tensors into those of an encoder.

    Args:
        own: the names in the encoder's state dict.
        names: the names in the file.

    Returns:
        The name in the encoder of each name of the file. A name that the encoder has not is
        returned without its wrappers.
    """
    bare = {name.removeprefix(_nesting(own)): name for name in own}
    unwrapped = {name: modern_name(_unwrap(name, bare)) for name in names}
    found = {name: _find(bare, inner) for name, inner in unwrapped.items()}
    if not any(found.values()):
        by_flat_name = {flat: bare[name] for name, flat in flat_names(bare).items()}
        flat = flat_names(unwrapped.values())
        found = {name: by_flat_name.get(flat[inner]) for name, inner in unwrapped.items()}
    return {name: found[name] or inner for name, inner in unwrapped.items()}


def is_part_of(own: Collection[str], name: str) -> bool:
    """Return whether a name that the encoder has not is one of the encoder's own layers.

    So is that of a further block of a deeper network, but not that of a classifier or decoder.

    Args:
        own: the names in the encoder's state dict.
        name: what `match_names` returned.
    """
    bare = [key.removeprefix(_nesting(own)) for key in own]
    tops = {key.partition(".")[0] for key in (*bare, *flat_names(bare).values())}
    return any(form.partition(".")[0] in tops for form in _forms(name))


def modern_name(name: str) -> str:
    """Return a tensor's name in today's torchvision, which differs for DenseNets."""
    return _OLD_DENSENET.sub(r"\1\2", name)


def flat_names(names: Collection[str]) -> dict[str, str]:
    """Return EfficientNet-PyTorch's names for those of an EfficientNet, without wrappers.

    Args:
        names: all names of a state dict. Those of other networks are returned as they are.
    """
    if "conv_stem.weight" in names:
        return _flatten(names, _TIMM)
    if "features.1.0.block.0.0.weight" in names:
        return _flatten(names, _TORCHVISION)
    return {name: name for name in names}


def _flatten(names: Collection[str], kind: _Kind) -> dict[str, str]:
    found = {name: match for name in names if (match := kind.block.fullmatch(name))}
    places = {name: (int(match[1]), int(match[2])) for name, match in found.items()}
    numbers = {place: number for number, place in enumerate(sorted(set(places.values())))}
    has_expansion = {places[name] for name, match in found.items() if match[3] == kind.mark}
    expanded = dict(zip(kind.expanded, _EXPANDED, strict=True))
    plain = dict(zip(kind.plain, _PLAIN, strict=True))
    outer = dict(zip(kind.outer, _OUTER, strict=True))
    flat = {}
    for name in names:
        layer, _, tensor = name.rpartition(".")
        if name not in found:
            flat[name] = f"{outer.get(layer, layer)}.{tensor}"
            continue
        place, layer = places[name], found[name][3]
        layers = expanded if place in has_expansion else plain
        flat[name] = f"_blocks.{numbers[place]}.{layers.get(layer, layer)}.{tensor}"
    return flat


def _nesting(own: Collection[str]) -> str:
    # segmentation-models-pytorch nests timm's networks one level deeper.
    return "model." if all(name.startswith("model.") for name in own) else ""


def _unwrap(name: str, own: Collection[str]) -> str:
    """Strip wrappers from a name until the encoder has it, or none is left."""
    for wrapper in _WRAPPERS:
        if name in own:
            break
        name = name.removeprefix(wrapper)
    return name


def _find(bare: dict[str, str], name: str) -> str | None:
    return next((bare[form] for form in _forms(name) if form in bare), None)


def _forms(name: str) -> tuple[str, str, str]:
    """Return what a tensor of a file may be called in an encoder of a library with equal names."""
    # timm flattens the containers of a network of which it takes the features.
    return name, name.removeprefix(_CONTAINER), name.replace(".", "_", 1)
