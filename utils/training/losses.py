"""Losses on logits, computed in float32: weighted sums of terms, written `bce:3,dice:1,focal:4`.

| term         | definition                                                                        |
|--------------|-----------------------------------------------------------------------------------|
| bce          | binary cross-entropy, mean over pixels; bce(0.75) sets the weight of mask pixels  |
| dice         | 1 - soft Dice over all pixels of the batch                                        |
| dice_image   | 1 - soft Dice of each image, mean over images                                     |
| focal        | cross-entropy times (truth - p)^2, mean over pixels                               |
| lovasz       | symmetric Lovasz hinge of each image, mean over images                            |

Every term maps logits and mask, [B,1,H,W] float and uint8 of 0 and 1, to a scalar. All but lovasz
also take a soft mask, float from 0 to 1, and are lowest where the probabilities equal it; for a
mask of 0 and 1 their forms are the usual ones. Weights are not normalised: `bce:3,dice:1` is
3 bce + dice. All terms but `dice` are means over images, so they do not depend on how images are
batched. `dice` is computed over the images of a batch on one process, in training and validation,
so it depends on batch size and number of processes.
"""

from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from models.interface import NetworkOutput, read_output
from utils.config.stages import LossTerm, parse_loss

Loss = Callable[[NetworkOutput, Tensor], Tensor]
"""A network's output and the mask -> a scalar."""

_GAMMA = 2


def bce(logits: Tensor, mask: Tensor, mask_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy, mean over all pixels; mask pixels have weight `mask_weight`."""
    logits, truth = _prepare(logits, mask)
    factor = None if mask_weight == 1 else torch.full_like(logits[:1, :1, :1, :1], mask_weight)
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=factor)


def focal(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal loss without class weights, gamma 2, mean over all pixels.

    Sources: Lin et al. 2017, arXiv 1708.02002, equation 4; for soft masks the quality focal loss
    of Li et al. 2020, arXiv 2006.04388.
    """
    logits, truth = _prepare(logits, mask)
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (losses * (truth - torch.sigmoid(logits)) ** _GAMMA).mean()


def dice(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - soft Dice over all pixels of the batch, as used by the competition's winner.

    A batch without any mask is scored on its background, for the reason given in `dice_image`.
    """
    logits, truth = _prepare(logits, mask)
    return _one_minus_dice(torch.sigmoid(logits).flatten()[None], truth.flatten()[None])


def dice_image(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - soft Dice of each image, mean over images (Milletari et al. 2016, arXiv 1606.04797).

    An image without a mask is scored on its background: the Dice with an empty mask is 0 whatever
    is predicted, with almost no gradient.
    """
    logits, truth = _prepare(logits, mask)
    return _one_minus_dice(torch.sigmoid(logits).flatten(1), truth.flatten(1))


def lovasz(logits: Tensor, mask: Tensor) -> Tensor:
    """Symmetric Lovasz hinge, mean over images: half for the mask and half for its background.

    Source: Berman et al. 2018, arXiv 1705.08790; made symmetric by the competition's third place.
    """
    logits, truth = (part.flatten(1) for part in _prepare(logits, mask))
    return (_lovasz_hinge(logits, truth) + _lovasz_hinge(-logits, 1 - truth)).mean() / 2


_TERMS: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "dice": dice,
    "dice_image": dice_image,
    "focal": focal,
    "lovasz": lovasz,
}


def build_loss(text: str, presence_weight: float = 0.0, whole: int = 1) -> Loss:
    """Build a loss from a text such as bce:3,dice:1, see `utils.config.stages.parse_loss`.

    Args:
        text: terms and weights.
        presence_weight: if above 0, the loss takes the output of a network with a presence head,
            logits and presence logits [B,1], and adds the cross-entropy of the latter with this
            weight.
        whole: value of a pixel that lies wholly in the mask, see
            `datasets.preprocessing.whole_pixel`. With another than 1 the masks are soft.

    Raises:
        InputError: the text cannot be parsed.
    """
    terms = [(term.weight, _bind(term)) for term in parse_loss(text)]

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        truth = mask if whole == 1 else mask.float() / whole
        return reduce(torch.add, [weight * term(logits, truth) for weight, term in terms])

    def with_presence(output: NetworkOutput, mask: Tensor) -> Tensor:
        logits, presence = read_output(output)
        if presence is None:
            raise TypeError("a presence loss needs a network with a presence head")
        present = mask.flatten(1).any(dim=1, keepdim=True)
        return loss(logits, mask) + presence_weight * bce(presence, present)

    def without_presence(output: NetworkOutput, mask: Tensor) -> Tensor:
        return loss(read_output(output).logits, mask)

    return with_presence if presence_weight else without_presence


def _bind(term: LossTerm) -> Callable[..., Tensor]:
    function = _TERMS[term.name]
    return function if term.mask_weight == 1 else partial(function, mask_weight=term.mask_weight)


def _prepare(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    # Sums over the pixels of a mask would overflow in float16.
    exact = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(exact), mask.to(exact)


def _one_minus_dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    """[N,P] and [N,P] -> scalar, the mean over N."""
    empty = truth.sum(1, keepdim=True) == 0
    probabilities = torch.where(empty, 1 - probabilities, probabilities)
    truth = torch.where(empty, 1 - truth, truth)
    # For a mask of 0 and 1 the minimum is the product. With the product, a soft mask would be best
    # predicted by 0 and 1 (Wang et al. 2023, arXiv 2303.16296).
    overlap = torch.minimum(probabilities, truth).sum(1)
    total = probabilities.sum(1) + truth.sum(1)
    return (1 - 2 * overlap / total).mean()


def _lovasz_hinge(logits: Tensor, truth: Tensor) -> Tensor:
    """[N,P] and [N,P] -> [N]: each error is weighted by its effect on the Jaccard index."""
    errors, order = (1 - logits * (2 * truth - 1)).sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    size = truth.sum(1, keepdim=True)
    # Whole numbers: GPUs have no deterministic sum of floats so far.
    missed = truth.int().cumsum(1, dtype=torch.int32)
    correct = (1 - truth).int().cumsum(1, dtype=torch.int32)
    jaccard = 1 - (size - missed) / (size + correct)
    weights = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(size))
    return (F.relu(errors) * weights).sum(1)
