"""U-Net around a torchvision backbone, with the names of the package backboned-unet.

Signature, parameter names and outputs are those of github.com/mkisantal/backboned-unet, so that its
checkpoints load here. Differences: the unused classifier (`backbone.fc`) is left out, and building
a network does not update its batch-norm statistics.
"""

from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from models.names import BACKBONES, RESNETS
from models.pretrained.weights import fetch_imagenet
from utils.console import print0

_VGG_SHORTCUTS = {
    "vgg16": (("5", "12", "22", "32", "42"), "43"),
    "vgg19": (("5", "12", "25", "38", "51"), "52"),
}


def _backbone(name: str, pretrained: bool) -> tuple[nn.Module, tuple[str | None, ...], str]:
    """Return the backbone, the names of its shortcut layers (shallow first) and its last layer."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    torchvision_name = f"{name}_bn" if name in _VGG_SHORTCUTS else name
    network = torchvision.models.get_model(torchvision_name, weights=None)
    if pretrained:
        network.load_state_dict(fetch_imagenet(torchvision_name))
    if name in RESNETS:
        del network.avgpool, network.fc
        return network, (None, "relu", "layer1", "layer2", "layer3"), "layer4"
    if name in _VGG_SHORTCUTS:
        return network.features, *_VGG_SHORTCUTS[name]
    shortcuts = (None, "relu0", "denseblock1", "denseblock2", "denseblock3")
    return network.features, shortcuts, "denseblock4"


class UpsampleBlock(nn.Module):
    """Doubles the resolution and merges the shortcut, if any.

    If `parametric`, a transposed convolution upsamples before the shortcut is concatenated.
    Otherwise bilinear interpolation upsamples, and a convolution follows the concatenation.
    """

    def __init__(self, ch_in: int, ch_out: int, skip_in: int, use_bn: bool, parametric: bool):
        super().__init__()
        self.parametric = parametric
        convolution = partial(nn.Conv2d, kernel_size=3, padding=1, bias=not use_bn)
        if parametric:
            self.up = nn.ConvTranspose2d(ch_in, ch_out, 4, stride=2, padding=1, bias=not use_bn)
        else:
            self.conv1 = convolution(ch_in + skip_in, ch_out)
        self.bn1 = nn.BatchNorm2d(ch_out) if use_bn else nn.Identity()
        self.conv2 = convolution(ch_out + (skip_in if parametric else 0), ch_out)
        self.bn2 = nn.BatchNorm2d(ch_out) if use_bn else nn.Identity()

    def forward(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        """[B,ch_in,H,W] and [B,skip_in,2H,2W] -> [B,ch_out,2H,2W]."""
        if self.parametric:
            x = _join(F.relu(self.bn1(self.up(x))), shortcut)
        else:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.relu(self.bn1(self.conv1(_join(x, shortcut))))
        return F.relu(self.bn2(self.conv2(x)))


def _join(x: Tensor, shortcut: Tensor | None) -> Tensor:
    return x if shortcut is None else torch.cat([x, shortcut], dim=1)


class Unet(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with a torchvision backbone as encoder.

    Args:
        backbone_name: one of `BACKBONES`.
        pretrained: load torchvision's ImageNet weights into the backbone.
        encoder_freeze: freeze the backbone: no gradients, fixed batch-norm statistics.
        classes: channels of the output.
        decoder_filters: channels of the five upsampling blocks, deepest first.
        parametric_upsampling: transposed convolutions instead of bilinear interpolation.
        shortcut_features: names of the backbone's children whose outputs are the shortcuts,
            shallow first, None for a level without one; "default" takes one per resolution.
        decoder_use_batchnorm: batch norm after every convolution of the decoder.
        presence_head: also compute one logit per image, from the mean of the backbone's output.
    """

    size_step = 32

    def __init__(
        self,
        backbone_name: str = "resnet50",
        pretrained: bool = True,
        encoder_freeze: bool = False,
        classes: int = 21,
        decoder_filters: tuple[int, ...] = (256, 128, 64, 32, 16),
        parametric_upsampling: bool = True,
        shortcut_features: str | tuple[str | None, ...] = "default",
        decoder_use_batchnorm: bool = True,
        *,
        presence_head: bool = False,
    ):
        super().__init__()
        self.backbone, default, self.backbone_output = _backbone(backbone_name, pretrained)
        self.shortcut_features = default if shortcut_features == "default" else shortcut_features
        self.encoder_freeze = encoder_freeze
        self.backbone.requires_grad_(not encoder_freeze)
        channels, deepest = self._count_channels()
        self.upsample_blocks = nn.ModuleList(
            UpsampleBlock(ch_in, ch_out, skip_in, decoder_use_batchnorm, parametric_upsampling)
            for ch_in, ch_out, skip_in in zip(
                (deepest, *decoder_filters[:-1]), decoder_filters, reversed(channels), strict=True
            )
        )
        self.final_conv = nn.Conv2d(decoder_filters[-1], classes, kernel_size=1)
        self.presence_head = _presence_head(deepest) if presence_head else None
        self.register_load_state_dict_pre_hook(_ignore_classifier)

    @property
    def encoder(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    def train(self, mode: bool = True) -> "Unet":
        """Switch to training mode; with `encoder_freeze` the backbone stays in evaluation mode."""
        super().train(mode)
        if self.encoder_freeze:
            self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """[B,3,H,W] -> logits [B,classes,H,W], and [B,1] with a presence head.

        H and W are multiples of 32.
        """
        deepest, shortcuts = self._encode(x)
        x = deepest
        for block, shortcut in zip(self.upsample_blocks, reversed(shortcuts), strict=True):
            x = block(x, shortcut)
        logits = self.final_conv(x)
        return logits if self.presence_head is None else (logits, self.presence_head(deepest))

    def _encode(self, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        features = {}
        for name, child in self.backbone.named_children():
            x = child(x)
            features[name] = x
            if name == self.backbone_output:
                break
        return x, [None if name is None else features[name] for name in self.shortcut_features]

    @torch.no_grad()
    def _count_channels(self) -> tuple[list[int], int]:
        # A forward pass in training mode would update the batch-norm statistics.
        self.backbone.eval()
        deepest, shortcuts = self._encode(torch.zeros(1, 3, 32, 32))
        self.backbone.train(not self.encoder_freeze)
        return [0 if s is None else s.shape[1] for s in shortcuts], deepest.shape[1]


def _presence_head(channels: int) -> nn.Sequential:
    """[B,channels,H,W] -> [B,1]; like the auxiliary head of segmentation-models-pytorch."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, 1)
    )


def _ignore_classifier(module: nn.Module, state_dict: dict, *_: object) -> None:
    ignored = [key for key in state_dict if key.startswith("backbone.fc.")]
    for key in ignored:
        del state_dict[key]
    if ignored:
        print0(f"ignored unused weights: {', '.join(ignored)}")
