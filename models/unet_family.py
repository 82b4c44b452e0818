"""U-Net and its three relatives: recurrent blocks, attention gates, or both.

The table `VARIANTS` lists their differences; the rest of this module is shared. Each network halves
the image four times and has 64, 128, 256, 512 and 1024 channels from top to bottom.

- U-Net: Ronneberger et al. 2015, arXiv 1505.04597 (here with padding and batch norm).
- R2U-Net, recurrent residual blocks: Alom et al. 2018, arXiv 1802.06955.
- Attention U-Net, gated shortcuts: Oktay et al. 2018, arXiv 1804.03999.

The papers do not state the size of these networks. With three input channels and one output
channel, they have as many parameters as in the implementation that is commonly used for all four,
github.com/LeeJunHyun/Image_Segmentation: 34.53, 39.09, 34.88 and 39.44 million.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

_CHANNELS = (64, 128, 256, 512, 1024)


class Variant(NamedTuple):
    """The design of a network of the family.

    Attributes:
        recurrent: blocks are recurrent and residual instead of two plain convolutions.
        gated: shortcuts pass through an attention gate.
    """

    recurrent: bool
    gated: bool


VARIANTS = {
    "U_Net": Variant(recurrent=False, gated=False),
    "R2U_Net": Variant(recurrent=True, gated=False),
    "AttU_Net": Variant(recurrent=False, gated=True),
    "R2AttU_Net": Variant(recurrent=True, gated=True),
}


def build_unet(name: str, t: int) -> "UNet":
    """Build a network of the family.

    Args:
        name: a key of `VARIANTS`.
        t: recurrent steps of each recurrent convolution; plain blocks ignore it.
    """
    recurrent, gated = VARIANTS[name]
    return UNet(partial(RecurrentBlock, t=t) if recurrent else DoubleConv, gated)


def conv_norm(ch_in: int, ch_out: int, kernel_size: int) -> nn.Sequential:
    """Convolution that preserves the resolution, then batch norm."""
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(ch_in, ch_out, kernel_size, padding=padding), nn.BatchNorm2d(ch_out)
    )


def conv_norm_relu(ch_in: int, ch_out: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(*conv_norm(ch_in, ch_out, 3), nn.ReLU(inplace=True))


class DoubleConv(nn.Sequential):
    """Two convolutions: [B,ch_in,H,W] -> [B,ch_out,H,W]."""

    def __init__(self, ch_in: int, ch_out: int):
        super().__init__(conv_norm_relu(ch_in, ch_out), conv_norm_relu(ch_out, ch_out))


class RecurrentConv(nn.Module):
    """One convolution applied 1 + t times: first to the input, then to input plus last output."""

    def __init__(self, channels: int, t: int):
        super().__init__()
        self.t = t
        self.conv = conv_norm_relu(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,H,W]."""
        out = self.conv(x)
        for _ in range(self.t):
            out = self.conv(x + out)
        return out


class RecurrentBlock(nn.Module):
    """Two recurrent convolutions and a residual connection: [B,ch_in,H,W] -> [B,ch_out,H,W]."""

    def __init__(self, ch_in: int, ch_out: int, t: int):
        super().__init__()
        self.widen = nn.Conv2d(ch_in, ch_out, kernel_size=1)
        self.recurrent = nn.Sequential(RecurrentConv(ch_out, t), RecurrentConv(ch_out, t))

    def forward(self, x: Tensor) -> Tensor:
        """[B,ch_in,H,W] -> [B,ch_out,H,W]."""
        x = self.widen(x)
        return x + self.recurrent(x)


class AttentionGate(nn.Module):
    """Weights each pixel of a shortcut by a number from 0 to 1, from shortcut and decoder features.

    The additive gate of the paper's equations 1 and 2, at the shortcut's resolution.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.of_decoder = conv_norm(channels, channels // 2, 1)
        self.of_shortcut = conv_norm(channels, channels // 2, 1)
        self.weigh = nn.Sequential(nn.ReLU(), *conv_norm(channels // 2, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Two [B,C,H,W], from the decoder and from the encoder -> [B,C,H,W]."""
        return shortcut * self.weigh(self.of_decoder(x) + self.of_shortcut(shortcut))


class Encoder(nn.Module):
    """The contracting path: a block at each resolution."""

    def __init__(self, block: Callable[[int, int], nn.Module]):
        super().__init__()
        ins = (3, *_CHANNELS[:-1])
        self.blocks = nn.ModuleList(map(block, ins, _CHANNELS))
        self.halve = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B,3,H,W] -> the output of each block, from [B,64,H,W] down to [B,1024,H/16,W/16]."""
        features = [self.blocks[0](x)]
        for block in self.blocks[1:]:
            features.append(block(self.halve(features[-1])))
        return features


class Up(nn.Module):
    """One step of the expanding path: doubles the resolution and concatenates the shortcut."""

    def __init__(
        self, ch_in: int, ch_out: int, block: Callable[[int, int], nn.Module], gated: bool
    ):
        super().__init__()
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), *conv_norm_relu(ch_in, ch_out))
        self.gate = AttentionGate(ch_out) if gated else None
        self.block = block(2 * ch_out, ch_out)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """[B,ch_in,H,W] and [B,ch_out,2H,2W] -> [B,ch_out,2H,2W]."""
        x = self.up(x)
        if self.gate is not None:
            shortcut = self.gate(x, shortcut)
        return self.block(torch.cat([shortcut, x], dim=1))


class UNet(nn.Module):
    """A network of the family.

    Args:
        block: builds a block from its input and output channels.
        gated: pass the shortcuts through attention gates.
    """

    size_step = 16

    def __init__(self, block: Callable[[int, int], nn.Module], gated: bool):
        super().__init__()
        self.encoder = Encoder(block)
        upwards = _CHANNELS[::-1]
        self.decoder = nn.ModuleList(
            Up(ch_in, ch_out, block, gated) for ch_in, ch_out in pairwise(upwards)
        )
        self.final_conv = nn.Conv2d(_CHANNELS[0], 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] -> logits [B,1,H,W]."""
        *shortcuts, x = self.encoder(x)
        for up, shortcut in zip(self.decoder, reversed(shortcuts), strict=True):
            x = up(x, shortcut)
        return self.final_conv(x)
