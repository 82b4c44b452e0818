"""Losses on logits, computed in float32: weighted sums of terms, written `bce:3,dice:1,focal:4`.

| term         | what it is                                                                        |
|--------------|-----------------------------------------------------------------------------------|
| bce          | binary cross-entropy, mean over pixels; bce(0.75) weighs the pixels of masks      |
| dice         | 1 - soft Dice of all pixels of the batch together                                 |
| dice_image   | 1 - soft Dice of each image, mean over images                                     |
| focal        | cross-entropy times (1 - p of the truth)^2, mean over pixels                      |
| lovasz       | symmetric Lovasz hinge of each image, mean over images                            |

Every term takes logits and mask, [B,1,H,W] float and uint8 of 0 and 1, and gives a scalar. Weights
are not normalised: `bce:3,dice:1` is 3 bce + dice. All but `dice` are means over images, which do
not change with the cut into batches; `dice` is of the images that a process computes at once, in
training as in validation, so it depends on batch size and number of processes.
"""

import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.errors import InputError

Loss = Callable[[Tensor | tuple[Tensor, Tensor], Tensor], Tensor]
"""What a network returned, and the mask -> a scalar."""

_GAMMA = 2
_TERM = re.compile(r"(?P<name>\w+)(\((?P<factor>[^()]+)\))?(:(?P<weight>.+))?")


def bce(logits: Tensor, mask: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy, mean over all pixels; those of masks count `positive_weight` times."""
    logits, truth = _prepare(logits, mask)
    factor = (
        None if positive_weight == 1 else torch.full_like(logits[:1, :1, :1, :1], positive_weight)
    )
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=factor)


def focal(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal loss without class weights, gamma 2, mean over all pixels.

    Source: Lin et al. 2017, arXiv 1708.02002, equation 4.
    """
    logits, truth = _prepare(logits, mask)
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (losses * torch.expm1(-losses).neg() ** _GAMMA).mean()


def dice(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - soft Dice of all pixels of the batch together, as the competition's winner used it.

    Of a batch without any mask the background is scored, as for that of `dice_image`.
    """
    logits, truth = _prepare(logits, mask)
    return _one_minus_dice(torch.sigmoid(logits).flatten()[None], truth.flatten()[None])


def dice_image(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - soft Dice of each image, mean over images (Milletari et al. 2016, arXiv 1606.04797).

    Of an image without a mask the background is scored: the Dice with an empty mask is 0 whatever
    is predicted, and its gradient next to nothing.
    """
    logits, truth = _prepare(logits, mask)
    return _one_minus_dice(torch.sigmoid(logits).flatten(1), truth.flatten(1))


def lovasz(logits: Tensor, mask: Tensor) -> Tensor:
    """Symmetric Lovasz hinge, mean over images: half for the mask and half for its background.

    Source: Berman et al. 2018, arXiv 1705.08790; made symmetric by the third of the competition.
    """
    logits, truth = (part.flatten(1) for part in _prepare(logits, mask))
    return (_lovasz_hinge(logits, truth) + _lovasz_hinge(-logits, 1 - truth)).mean() / 2


_TERMS: dict[str, Loss] = {
    "bce": bce,
    "dice": dice,
    "dice_image": dice_image,
    "focal": focal,
    "lovasz": lovasz,
}


def build_loss(text: str, presence_weight: float = 0.0, flag: str = "--loss") -> Loss:
    """Build the weighted sum that `text` names, such as bce:3,dice:1 or bce(0.75).

    A term without a weight counts once.

    Args:
        text: the terms.
        presence_weight: above 0, the loss takes what a network with a presence head returns, logits
            and presence logits [B,1], and adds the cross-entropy of the latter so many times.
        flag: named where the text cannot be read.

    Raises:
        InputError: a term is unknown or named twice, or a number is not above 0.
    """
    terms: dict[str, tuple[float, Loss]] = {}
    for word in text.replace(" ", "").split(","):
        name, weight, term = _read_term(word, f"{flag} {text}")
        if name in terms:
            raise InputError(f"{flag} {text}: names {name} twice")
        terms[name] = weight, term

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        return sum(weight * term(logits, mask) for weight, term in terms.values())

    return _with_presence(loss, presence_weight) if presence_weight else loss


def _with_presence(loss: Loss, weight: float) -> Loss:
    def both(output: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        logits, presence = output
        present = mask.flatten(1).any(dim=1, keepdim=True)
        return loss(logits, mask) + weight * bce(presence, present)

    return both


def _read_term(word: str, place: str) -> tuple[str, float, Loss]:
    parts = _TERM.fullmatch(word)
    if not parts or parts["name"] not in _TERMS:
        raise InputError(
            f"{place}: there is no term {word!r}; give terms and weights, such as "
            f"bce:3,dice:1,focal:4. Terms: {', '.join(_TERMS)}"
        )
    name, term = parts["name"], _TERMS[parts["name"]]
    if parts["factor"]:
        if name != "bce":
            raise InputError(f"{place}: only bce takes a weight of mask pixels, as in bce(0.75)")
        term = partial(term, positive_weight=_number(parts["factor"], place))
    return name, _number(parts["weight"] or "1", place), term


def _number(word: str, place: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise InputError(f"{place}: {word} is not a number above 0")
    return number


def _prepare(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    # Half-precision sums over a mask's pixels would overflow.
    exact = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(exact), mask.to(exact)


def _one_minus_dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    """[N,P] and [N,P] -> scalar, the mean over N."""
    empty = truth.sum(1, keepdim=True) == 0
    probabilities = torch.where(empty, 1 - probabilities, probabilities)
    truth = torch.where(empty, 1 - truth, truth)
    overlap, total = (probabilities * truth).sum(1), probabilities.sum(1) + truth.sum(1)
    return (1 - 2 * overlap / total).mean()


def _lovasz_hinge(logits: Tensor, truth: Tensor) -> Tensor:
    """[N,P] and [N,P] -> [N]: each error weighs what the Jaccard index loses by it."""
    errors, order = (1 - logits * (2 * truth - 1)).sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    size = truth.sum(1, keepdim=True)
    missed = truth.cumsum(1)
    jaccard = 1 - (size - missed) / (size + (1 - truth).cumsum(1))
    weights = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(size))
    return (F.relu(errors) * weights).sum(1)
