import math

import pytest
import torch

from utils.loss import bce


def slow_bce(logits, mask):
    """Mean over the pixels of -log of the probability given to the truth, in double precision."""
    losses = []
    for logit, inside in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        agreement = logit if inside else -logit
        losses.append(max(-agreement, 0) + math.log1p(math.exp(-abs(agreement))))
    return sum(losses) / len(losses)


def logits_and_mask(shape=(2, 1, 8, 8), scale=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(shape, generator=generator)
    return logits, (torch.rand(shape, generator=generator) < 0.3).to(torch.uint8)


@pytest.mark.parametrize("scale", [0.1, 3, 50])
def test_bce_equals_the_pixel_by_pixel_reference(scale):
    logits, mask = logits_and_mask(scale=scale)
    loss = bce(logits, mask)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(slow_bce(logits, mask), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_large_mask_does_not_overflow_in_half_precision(dtype):
    logits = torch.full((2, 1, 256, 256), -8.0, dtype=dtype, requires_grad=True)
    loss = bce(logits, torch.ones(logits.shape, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(8 + math.log1p(math.exp(-8)), rel=1e-6)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_certain_and_wrong_is_a_finite_loss():
    loss = bce(torch.full((1, 1, 2, 2), 1e4), torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    assert loss.item() == pytest.approx(1e4)


def test_the_gradient_is_probability_minus_truth_over_all_pixels():
    logits, mask = logits_and_mask()
    logits.requires_grad_()
    bce(logits, mask).backward()
    expected = (torch.sigmoid(logits.detach()) - mask) / mask.numel()
    torch.testing.assert_close(logits.grad, expected)
