"""The names of the networks, for --model_type and its help; `build` makes them."""

import textwrap

U_NETS = ("U_Net", "R2U_Net", "AttU_Net", "R2AttU_Net")
"""The U-Net family, which has no pretrained weights; see models/unet_family.py."""
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VGGS = ("vgg16", "vgg19")
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
BACKBONES = (*RESNETS, *VGGS, *DENSENETS)
"""The encoders of unet_<backbone>, see models/backboned_unet.py."""
SMP_PATTERN = "smp:ARCHITECTURE:ENCODER"
"""Any network of segmentation-models-pytorch, see models/smp.py."""


def model_types() -> list[str]:
    """Return the names that `build_model` accepts, apart from smp:ARCHITECTURE:ENCODER."""
    return [*U_NETS, *(f"unet_{name}" for name in BACKBONES), "linknet", "deeplabv3plus"]


def describe_models() -> str:
    """Describe the networks for the help of a command."""
    names = ", ".join([*model_types(), SMP_PATTERN])
    lines = textwrap.fill(
        names, 98, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
    return (
        f"Networks (--model_type):\n\n{lines}\n\n{SMP_PATTERN} is any network of "
        "segmentation-models-pytorch, such as\nsmp:Unet:se_resnext50_32x4d or "
        "smp:UnetPlusPlus:tu-efficientnet_b4.\n"
    )
