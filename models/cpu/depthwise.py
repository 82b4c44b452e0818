"""Gradients of depthwise convolutions in float32, for faster training in bfloat16 on a CPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Pair = int | Sequence[int]


class FloatDepthwiseGradients(TorchFunctionMode):
    """Within it, depthwise convolutions under bfloat16 autocast have gradients in float32.

    Their outputs stay those of bfloat16. In the backward pass, which may come after it, oneDNN has
    no fast bfloat16 kernel for a kernel of 5 x 5 or a stride of 2: float32 takes a quarter of the
    time (benchmarks/README.md), and rounds less.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Call torch.conv2d, or `_Depthwise` for a depthwise convolution that may be trained."""
    if (
        groups == 1
        or groups != input.shape[1]
        or isinstance(padding, str)
        or not torch.is_autocast_enabled("cpu")
        or not torch.is_grad_enabled()
    ):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    low = torch.get_autocast_dtype("cpu")
    bias = None if bias is None else bias.to(low)
    shape = _pair(stride), _pair(padding), _pair(dilation)
    return _Depthwise.apply(input.to(low), weight.to(low), bias, *shape)


def _pair(value: Pair) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value) * (2 // len(value))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.shape = stride, padding, dilation
        return torch.conv2d(input, weight, bias, stride, padding, dilation, input.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        floats = (
            value.to(torch.float32, memory_format=torch.channels_last)
            for value in (gradient, input, weight)
        )
        channels, wanted = input.shape[1], list(ctx.needs_input_grad[:3])
        gradients = torch.ops.aten.convolution_backward(
            *floats, [channels], *ctx.shape, False, [0, 0], channels, wanted
        )
        lows = (None if value is None else value.to(input.dtype) for value in gradients)
        return *lows, None, None, None
