import math
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from utils.config.stages import LossTerm, parse_loss
from utils.errors import InputError
from utils.training.losses import bce, build_loss, dice, dice_image, focal, lovasz

TERMS = (bce, dice, dice_image, focal, lovasz)


def slow_bce(logits, mask):
    """Mean over pixels of -log of the probability of the truth, in double precision."""
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
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_confident_wrong_prediction_has_a_finite_loss():
    loss = bce(torch.full((1, 1, 2, 2), 1e4), torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    assert loss.item() == pytest.approx(1e4)


def test_the_gradient_is_probability_minus_truth_over_all_pixels():
    logits, mask = logits_and_mask()
    logits.requires_grad_()
    bce(logits, mask).backward()
    expected = (torch.sigmoid(logits.detach()) - mask) / mask.numel()
    torch.testing.assert_close(logits.grad, expected)


def slow_weighted_bce(logits, mask, weight):
    pixels = list(zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True))
    total = 0.0
    for logit, inside in pixels:
        chance = 1 / (1 + math.exp(-logit))
        total -= weight * math.log(chance) if inside else math.log(1 - chance)
    return total / len(pixels)


def slow_focal(logits, mask):
    total = 0.0
    for logit, inside in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        right = 1 / (1 + math.exp(-logit if inside else logit))
        total -= (1 - right) ** 2 * math.log(right)
    return total / mask.numel()


def slow_dice(logits, mask):
    """1 - 2 sum(p t) / (sum(p) + sum(t)); of the background if there is no mask."""
    chances = [1 / (1 + math.exp(-logit)) for logit in logits.flatten().tolist()]
    truth = mask.flatten().tolist()
    if not any(truth):
        chances, truth = [1 - p for p in chances], [1 - t for t in truth]
    overlap = sum(p * t for p, t in zip(chances, truth, strict=True))
    return 1 - 2 * overlap / (sum(chances) + sum(truth))


class NoFloatCumsum(TorchDispatchMode):
    """Refuses what a GPU refuses with deterministic algorithms: cumulative sums of floats."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.cumsum.default:
            assert not args[0].is_floating_point()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("term", TERMS)
def test_no_term_needs_a_cumulative_sum_of_floats(term):
    logits, mask = logits_and_mask()
    with NoFloatCumsum():
        term(logits.requires_grad_(), mask).backward()


def slow_lovasz(logits, mask):
    """The Lovasz extension of the Jaccard loss by definition: errors are added one by one."""

    def jaccard_loss(wrong, truth):
        inside = [t != (i in wrong) for i, t in enumerate(truth)]
        union = sum(a or t for a, t in zip(inside, truth, strict=True))
        overlap = sum(a and t for a, t in zip(inside, truth, strict=True))
        return 1 - overlap / union if union else 0.0

    def one_sided(scores, truth):
        errors = [1 - s if t else 1 + s for s, t in zip(scores, truth, strict=True)]
        order = sorted(range(len(errors)), key=lambda i: -errors[i])
        total, before, wrong = 0.0, 0.0, set()
        for i in order:
            wrong.add(i)
            now = jaccard_loss(wrong, truth)
            total += max(errors[i], 0.0) * (now - before)
            before = now
        return total

    scores, truth = logits.flatten().tolist(), [bool(t) for t in mask.flatten().tolist()]
    inverted = one_sided([-s for s in scores], [not t for t in truth])
    return (one_sided(scores, truth) + inverted) / 2


def by_image(slow):
    def mean(logits, mask):
        losses = [slow(one, truth) for one, truth in zip(logits, mask, strict=True)]
        return sum(losses) / len(losses)

    return mean


@pytest.mark.parametrize("scale", [0.1, 3])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize(
    ("term", "slow"),
    [
        (focal, slow_focal),
        (dice, slow_dice),
        (dice_image, by_image(slow_dice)),
        (lovasz, by_image(slow_lovasz)),
    ],
    ids=["focal", "dice", "dice_image", "lovasz"],
)
def test_a_term_equals_its_slow_reference(term, slow, share, scale):
    """Including batches of background only and of mask only."""
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(3, 1, 6, 5, generator=generator)
    mask = (torch.rand(3, 1, 6, 5, generator=generator) < share).to(torch.uint8)
    assert term(logits, mask).item() == pytest.approx(slow(logits, mask), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("weight", [0.75, 4.0])
def test_bce_weights_the_pixels_of_masks(weight):
    logits, mask = logits_and_mask()
    expected = slow_weighted_bce(logits, mask, weight)
    assert bce(logits, mask, weight).item() == pytest.approx(expected, rel=1e-5)
    assert build_loss(f"bce({weight})")(logits, mask) == bce(logits, mask, weight)


def kinds_of_mask():
    mixed = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    mixed[0, :, 1:3, :2] = 1
    return {"mixed": mixed, "empty": torch.zeros_like(mixed), "full": torch.ones_like(mixed)}


@pytest.mark.parametrize("kind", ["mixed", "empty", "full"])
@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_gradients_pass_gradcheck(term, kind):
    logits = torch.randn(2, 1, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    mask = kinds_of_mask()[kind]
    assert torch.autograd.gradcheck(lambda x: term(x, mask), logits.requires_grad_())


@pytest.mark.parametrize("start", [-30.0, -4.0, 0.0, 4.0, 30.0])
@pytest.mark.parametrize("kind", ["empty", "full"])
@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_empty_and_full_batches_have_useful_gradients(term, kind, start):
    """Always finite; unless already learned, every pixel moves towards the truth."""
    mask = kinds_of_mask()[kind]
    logits = torch.full(mask.shape, start, requires_grad=True)
    loss = term(logits, mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    towards = 1.0 if kind == "full" else -1.0
    assert (logits.grad * towards <= 0).all()
    if start in (0.0, -4.0 * towards):
        assert (logits.grad * towards < -1e-4 / mask.numel()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_half_precision_is_computed_in_float32(term, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, 1, 300, 300, generator=generator)).to(dtype).requires_grad_()
    mask = (torch.rand(logits.shape, generator=generator) < 0.9).to(torch.uint8)
    loss = term(logits, mask)
    assert loss.dtype == torch.float32
    assert loss == term(logits.detach().float(), mask)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_loss_is_the_weighted_sum_of_its_terms():
    logits, mask = logits_and_mask()
    loss = build_loss("bce:3, dice:1,focal:4,dice_image,lovasz:0.5")
    parts = {bce: 3, dice: 1, focal: 4, dice_image: 1, lovasz: 0.5}
    expected = sum(weight * term(logits, mask).item() for term, weight in parts.items())
    assert loss(logits, mask).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no term ''"),
        ("cross:1", "there is no term 'cross:1'; give terms and weights, such as bce:3"),
        ("bce:3,,dice", "there is no term ''"),
        ("bce;dice", "there is no term"),
        ("bce:1,dice:2,bce:3", "bce is repeated"),
        ("bce:0", "0 is not a number above 0"),
        ("dice:-1", "-1 is not a number above 0"),
        ("dice:nan", "nan is not a number above 0"),
        ("focal:much", "much is not a number above 0"),
        ("bce(0):1", "0 is not a number above 0"),
        ("focal(2):1", "only bce takes a weight of mask pixels"),
    ],
)
def test_an_invalid_loss_is_refused(text, message):
    with pytest.raises(InputError) as refused:
        parse_loss(text, "--loss_stage2")
    assert str(refused.value).startswith(f"--loss_stage2 {text}")
    assert message in str(refused.value)
    with pytest.raises(InputError, match=re.escape(message)):
        build_loss(text)


def test_a_loss_is_parsed_into_terms_and_weights():
    assert parse_loss("bce(0.75):3, dice:0.5,lovasz") == [
        LossTerm("bce", 3.0, 0.75),
        LossTerm("dice", 0.5),
        LossTerm("lovasz", 1.0),
    ]


def test_presence_adds_its_own_cross_entropy():
    """For a first image with a mask and a second one without."""
    logits, _ = logits_and_mask()
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    mask[0, 0, 3, 3] = 1
    presence = torch.tensor([[0.7], [-1.3]])
    expected = (math.log1p(math.exp(-0.7)) + math.log1p(math.exp(-1.3))) / 2
    loss = build_loss("bce", 0.25)((logits, presence), mask)
    assert loss.item() == pytest.approx(bce(logits, mask).item() + 0.25 * expected, rel=1e-5)


@pytest.mark.parametrize("term", [bce, focal, dice, dice_image], ids=lambda term: term.__name__)
def test_a_soft_mask_is_best_predicted_by_itself(term):
    """For a pixel that is covered by a third, and in a plain descent from the wrong side."""
    truth = torch.full((1, 1, 4, 4), 1 / 3)
    truth[..., :2], truth[..., 2, 0] = 0, 1
    chances = torch.linspace(0.02, 0.98, 97)
    losses = []
    for chance in chances:
        predicted = truth.clone()
        predicted[..., 3, 3] = chance
        losses.append(term(torch.logit(predicted, 1e-6), truth).item())
    assert chances[losses.index(min(losses))].item() == pytest.approx(1 / 3, abs=0.01)
    perfect = term(torch.logit(truth, 1e-6), truth)
    assert perfect.item() <= min(losses) + 1e-6
    if term is not bce:
        assert perfect.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("text", ["bce:3,dice:1,focal:4,dice_image", "bce(0.75)"])
def test_soft_masks_come_in_255ths_and_presence_stays_a_yes_or_no(text):
    logits, mask = logits_and_mask()
    presence = torch.tensor([[0.7], [-1.3]])
    hard, soft = build_loss(text, 0.25), build_loss(text, 0.25, whole=255)
    assert torch.equal(soft((logits, presence), mask * 255), hard((logits, presence), mask))
    faint = torch.zeros_like(mask)
    faint[0, 0, 3, 3] = 1
    expected = build_loss(text)(logits, faint / 255)
    answer = torch.tensor([[1.0], [0.0]])
    assert soft((logits, presence), faint).item() == pytest.approx(
        expected.item() + 0.25 * bce(presence, answer).item(), rel=1e-6
    )
