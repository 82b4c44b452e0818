"""The stages of a training as data, and the parsing of settings that describe them."""

import re
from dataclasses import dataclass, replace

from utils.config.settings import Config
from utils.errors import InputError

LOSS_TERMS = ("bce", "dice", "dice_image", "focal", "lovasz")
"""Names of the terms of a loss, see utils/training/losses.py."""

_TERM = re.compile(r"(?P<name>\w+)(\((?P<factor>[^()]+)\))?(:(?P<weight>.+))?")


@dataclass(frozen=True)
class Stage:
    """A part of the training with its own image size, optimizer and schedule."""

    number: int
    """1 for the first stage."""
    image_size: int
    """Side of the square input in pixels."""
    batch_size: int
    """Images per batch, over all processes."""
    epochs: int
    """Passes over the training images."""
    lr: float
    """Learning rate: the maximum of the schedule."""
    loss: str = "bce"
    """Terms and weights, see utils/training/losses.py."""
    schedule: str = "cosine"
    """Learning-rate schedule, see utils/training/optim.py."""
    positive_share: tuple[float, float] | None = None
    """Share of positives in the first and the last epoch; None uses every image once."""
    positives_only: bool = False
    """Train and validate on positives only: the network predicts masks but cannot be the gate."""
    freeze_epochs: int = 0
    """Epochs at the start with a frozen encoder."""
    accumulation_epochs: int = 0
    """Epochs at the end that accumulate gradients."""
    accumulation_steps: int = 1
    """Batches per optimizer step in those epochs."""
    validate_every: int = 1
    """Epochs from one validation to the next."""

    def is_validated(self, epoch: int) -> bool:
        """Return whether `epoch` (from 0) is validated: every `validate_every`-th, and the last."""
        return (epoch + 1) % self.validate_every == 0 or epoch + 1 == self.epochs

    def batches_per_step(self, epoch: int) -> int:
        """Return how many batches make one optimizer step in `epoch` (from 0)."""
        accumulates = epoch >= self.epochs - self.accumulation_epochs
        return self.accumulation_steps if accumulates else 1

    def positive_share_at(self, epoch: int) -> float | None:
        """Return the share of positives in `epoch` (from 0); None uses every image once."""
        if self.positive_share is None:
            return None
        first, last = self.positive_share
        return first + (last - first) * epoch / max(1, self.epochs - 1)


def build_stages(config: Config, lr: float | None = None) -> tuple[Stage, ...]:
    """Return the stages to train, in order.

    Args:
        config: settings of the run.
        lr: learning rate of stage 1 if it is not `config.lr`, as main.py draws it.
    """
    share = parse_share(config.positive_share, "--positive_share")
    share_stage2 = parse_share(config.positive_share_stage2, "--positive_share_stage2")
    first = Stage(
        number=1,
        image_size=config.image_size_stage1,
        batch_size=config.batch_size_stage1,
        epochs=config.epoch_stage1,
        lr=config.lr if lr is None else lr,
        loss=config.loss,
        schedule=config.schedule,
        positive_share=share,
        freeze_epochs=config.epoch_stage1_freeze,
        validate_every=config.validate_every,
    )
    second = Stage(
        number=2,
        image_size=config.image_size_stage2,
        batch_size=config.batch_size_stage2,
        epochs=config.epoch_stage2,
        lr=config.lr_stage2,
        loss=config.loss_stage2 or config.loss,
        schedule=config.schedule_stage2 or config.schedule,
        positive_share=share_stage2 or share,
        accumulation_epochs=config.epoch_stage2_accumulation,
        accumulation_steps=config.accumulation_steps,
        validate_every=config.validate_every,
    )
    third = replace(
        second,
        number=3,
        epochs=config.epoch_stage3,
        lr=config.lr_stage3,
        loss=config.loss_stage3 or second.loss,
        positive_share=None,
        positives_only=True,
        accumulation_epochs=0,
    )
    count = 1 + config.two_stage + (config.epoch_stage3 > 0)
    return (first, second, third)[:count]


def mask_stage(config: Config) -> Stage:
    """Return the stage whose networks predict the masks: the last."""
    return build_stages(config)[-1]


def gate_stage(config: Config) -> Stage:
    """Return the stage whose networks are the gate: the last one trained on all images."""
    return [stage for stage in build_stages(config) if not stage.positives_only][-1]


def parse_share(text: float | str | None, flag: str) -> tuple[float, float] | None:
    """Parse a share of positives: 0.5, or 0.8:0.4 for the first and the last epoch.

    Raises:
        InputError: it is neither, or a share is 0, negative or above 1.
    """
    if text is None:
        return None
    try:
        shares = [float(word) for word in str(text).split(":")]
    except ValueError:
        shares = []
    if len(shares) not in (1, 2) or not all(0 < share <= 1 for share in shares):
        raise InputError(
            f"{flag} {text}: give a share above 0 and at most 1, such as 0.5, or one for the first "
            "and one for the last epoch, such as 0.8:0.4 (in YAML write 1.0:0.5; YAML reads 1:0.5 "
            "as the number 60.5)"
        )
    return shares[0], shares[-1]


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss.

    Attributes:
        name: one of `LOSS_TERMS`.
        weight: above 0.
        mask_weight: weight of mask pixels in bce; 1 for other terms.
    """

    name: str
    weight: float
    mask_weight: float = 1.0


def parse_loss(text: str, flag: str = "--loss") -> list[LossTerm]:
    """Parse a loss such as bce:3,dice:1 or bce(0.75); a term without a weight counts once.

    Args:
        text: the terms, separated by commas.
        flag: the flag to name in errors.

    Raises:
        InputError: a term is unknown or repeated, or a number is not above 0.
    """
    terms: dict[str, LossTerm] = {}
    for word in text.replace(" ", "").split(","):
        term = _parse_term(word, f"{flag} {text}")
        if term.name in terms:
            raise InputError(f"{flag} {text}: {term.name} is repeated")
        terms[term.name] = term
    return list(terms.values())


def _parse_term(word: str, where: str) -> LossTerm:
    parts = _TERM.fullmatch(word)
    if not parts or parts["name"] not in LOSS_TERMS:
        raise InputError(
            f"{where}: there is no term {word!r}; give terms and weights, such as "
            f"bce:3,dice:1,focal:4. Terms: {', '.join(LOSS_TERMS)}"
        )
    weight = _parse_positive(parts["weight"] or "1", where)
    if not parts["factor"]:
        return LossTerm(parts["name"], weight)
    if parts["name"] != "bce":
        raise InputError(f"{where}: only bce takes a weight of mask pixels, as in bce(0.75)")
    return LossTerm(parts["name"], weight, _parse_positive(parts["factor"], where))


def _parse_positive(word: str, where: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise InputError(f"{where}: {word} is not a number above 0")
    return number
