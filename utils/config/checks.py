"""Checks that settings are consistent; the command line checks types and ranges."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

from utils.config.normalisation import parse_normalisation
from utils.config.settings import Config
from utils.config.stages import LossTerm, Stage, build_stages, parse_loss
from utils.errors import InputError, check_text

_AT_MOST = (
    ("epoch_stage1_freeze", "epoch_stage1"),
    ("epoch_stage2_accumulation", "epoch_stage2"),
)


_NEEDED_BY_SCHEDULE = (
    ("restarts", "restart_epochs", "the epochs between restarts"),
    ("linear", "decay_epochs", "the epochs over which the rate falls to 0"),
)
"""Settings that one schedule needs and no other one has a use for, and what they are."""


class _Unused(NamedTuple):
    """Settings that have no effect with some others.

    Attributes:
        names: the settings.
        applies: whether they have no effect.
        reason: why, with other settings in braces.
    """

    names: tuple[str, ...]
    applies: Callable[[Config], bool]
    reason: str


RECURRENT = ("R2U_Net", "R2AttU_Net")
"""The networks that --t is for."""
_STAGE2 = ("image_size_stage2", "batch_size_stage2", "epoch_stage2", "lr_stage2")
_ACCUMULATION = ("epoch_stage2_accumulation", "accumulation_steps")
_WITHOUT_EFFECT = (
    _Unused((*_STAGE2, *_ACCUMULATION), lambda c: not c.two_stage, "two_stage is false"),
    _Unused(
        ("accumulation_steps",),
        lambda c: c.epoch_stage2_accumulation == 0,
        "epoch_stage2_accumulation is 0",
    ),
    _Unused(
        ("epoch_stage2_accumulation",),
        lambda c: c.epoch_stage2_accumulation > 0 and c.accumulation_steps == 1,
        "accumulation_steps is 1",
    ),
    _Unused(("lr_stage3",), lambda c: c.epoch_stage3 == 0, "epoch_stage3 is 0"),
    _Unused(("momentum",), lambda c: c.optimizer != "sgd", "optimizer is {optimizer}"),
    _Unused(("cache_dir",), lambda c: not c.cache, "cache is false"),
    _Unused(("cases",), lambda c: not c.pictures, "pictures is false"),
    _Unused(("t",), lambda c: c.model_type not in RECURRENT, "{model_type} is not recurrent"),
    _Unused(
        ("pretrained",),
        lambda c: c.encoder_weights is not None,
        "encoder_weights is {encoder_weights}",
    ),
    _Unused(
        ("augmentation",),
        lambda c: not c.augmentation_flag and c.augmentation != "none",
        "augmentation_flag is false",
    ),
    _Unused(
        ("augmentation_flag",),
        lambda c: c.augmentation_flag and c.augmentation == "none",
        "augmentation is none",
    ),
    _Unused(
        ("augment_at",),
        lambda c: not c.augments and c.augment_at != "stage",
        "images are not augmented",
    ),
    _Unused(
        ("batch_size_stage1",),
        lambda c: c.mode == "train_stage2",
        "mode is train_stage2, which skips stage 1",
    ),
    _Unused(
        ("folds",),
        lambda c: c.mode == "choose_threshold" and c.folds != "all",
        "mode is choose_threshold, which uses every finished fold",
    ),
    _Unused(
        ("restart_epochs",),
        lambda c: bool(_without_restart(c)),
        "no restart in stage {unrestarted}, which has no more epochs",
    ),
)
"""Settings that do nothing but are accepted, since recipes and saved runs name them; the first
reason counts. What would mislead more, such as a loss of a missing stage, is refused below."""


def describe_unused(config: Config, given: frozenset[str]) -> str | None:
    """Name the given settings that have no effect on this run, with the reasons, in one line.

    Args:
        config: the settings of the run.
        given: names of the settings that were given rather than left at their defaults.

    Returns:
        The line; None if every given setting has an effect.
    """
    unrestarted = " and ".join(map(str, _without_restart(config)))
    reasons: dict[str, str] = {}
    for unused in _WITHOUT_EFFECT:
        for name in unused.names:
            is_given = name in given and getattr(config, name) is not None
            if is_given and name not in reasons and unused.applies(config):
                reasons[name] = unused.reason.format(unrestarted=unrestarted, **asdict(config))
    if not reasons:
        return None
    return "no effect: " + ", ".join(f"--{name} ({reason})" for name, reason in reasons.items())


def _without_restart(config: Config) -> list[int]:
    """Return the stages with restarts that end before the first one, by number."""
    return [
        stage.number
        for stage in build_stages(config)
        if stage.schedule == "restarts"
        and config.restart_epochs is not None
        and stage.epochs - config.warmup_epochs <= config.restart_epochs
    ]


def check_settings(config: Config) -> None:
    """Refuse settings that contradict each other, and texts that cannot be parsed.

    Raises:
        InputError: a setting is refused; the message names it as a flag.
    """
    _check_texts(config)
    config.fold_numbers()
    parse_normalisation(config.input_mean, config.input_std)
    _check_run_name(config)
    _check_weights(config)
    _check_augmentation(config)
    _check_stages(config)
    _check_schedules(config)


def _check_texts(config: Config) -> None:
    for name, value in asdict(config).items():
        if isinstance(value, str):
            check_text(f"--{name}", value)


def _check_run_name(config: Config) -> None:
    _check_folder_name("--model_type", config.model_type)
    if config.run_name is None:
        if config.resume or config.mode != "train":
            flag = "--resume true" if config.resume else f"--mode {config.mode}"
            raise InputError(f"{flag} needs --run_name, the run to continue (last: the newest)")
        return
    _check_folder_name("--run_name", config.run_name)


def _check_folder_name(flag: str, name: str) -> None:
    plain = name.isprintable() and name == name.strip() and not set(name) & set("/\\")
    if not plain or not name or name[0] == ".":
        raise InputError(f"{flag} {name!r}: is not a plain folder name")


def _check_weights(config: Config) -> None:
    if config.init_from is None:
        return
    for flag, is_given in (
        ("--pretrained true", config.pretrained),
        (f"--encoder_weights {config.encoder_weights}", config.encoder_weights is not None),
    ):
        if is_given:
            raise InputError(
                f"--init_from {config.init_from} and {flag} contradict each other: a whole network "
                "has an encoder too. Leave one out"
            )


def _check_augmentation(config: Config) -> None:
    if not config.augmentation_flag and config.augmentation not in ("original", "none"):
        raise InputError(
            f"--augmentation {config.augmentation} and --augmentation_flag false contradict each "
            "other; leave one out"
        )


def _check_stages(config: Config) -> None:
    for name, limit in _AT_MOST:
        if getattr(config, name) > getattr(config, limit):
            raise InputError(
                f"--{name} {getattr(config, name)}: is more than --{limit} {getattr(config, limit)}"
            )
    for name in ("loss", "loss_stage2", "loss_stage3"):
        text = getattr(config, name)
        if text is not None:
            _check_soft_masks(config, name, parse_loss(text, f"--{name}"))
    if not config.two_stage:
        for name in ("loss_stage2", "positive_share_stage2", "schedule_stage2"):
            if getattr(config, name) is not None:
                raise InputError(
                    f"--{name} {getattr(config, name)}: there is no stage 2 with --two_stage false"
                )
        if config.mode == "train_stage2":
            raise InputError("--mode train_stage2: there is no stage 2 with --two_stage false")
        if config.epoch_stage3:
            raise InputError(
                f"--epoch_stage3 {config.epoch_stage3}: stage 3 starts from stage 2, which "
                "--two_stage false leaves out"
            )
    if config.loss_stage3 is not None and not config.epoch_stage3:
        raise InputError(
            f"--loss_stage3 {config.loss_stage3}: there is no stage 3; give --epoch_stage3"
        )


def _check_soft_masks(config: Config, name: str, terms: list[LossTerm]) -> None:
    if config.mask_resize == "soft" and any(term.name == "lovasz" for term in terms):
        raise InputError(
            f"--{name} {getattr(config, name)}: lovasz, which sorts errors at pixels inside and "
            "outside of the mask, has no meaning for --mask_resize soft; use area"
        )


def _check_schedules(config: Config) -> None:
    stages = build_stages(config)
    for schedule, name, meaning in _NEEDED_BY_SCHEDULE:
        value, used = getattr(config, name), any(stage.schedule == schedule for stage in stages)
        if used and value is None:
            raise InputError(f"--schedule {schedule} needs --{name}, {meaning}")
        if value is not None and not used:
            raise InputError(f"--{name} {value}: no stage has --schedule {schedule}")
    _check_warmup(config, stages)
    for stage in stages:
        epochs = stage.epochs - config.warmup_epochs
        if stage.schedule == "linear" and (config.decay_epochs or 0) > epochs:
            warmup = " after the warm-up" if config.warmup_epochs else ""
            raise InputError(
                f"--decay_epochs {config.decay_epochs}: is more than the {epochs} epochs of stage "
                f"{stage.number}{warmup}"
            )


def _check_warmup(config: Config, stages: Sequence[Stage]) -> None:
    for stage in stages if config.warmup_epochs else ():
        if stage.schedule == "one_cycle":
            raise InputError(
                f"--warmup_epochs {config.warmup_epochs}: one_cycle, the schedule of stage "
                f"{stage.number}, already has a warm-up"
            )
        if stage.epochs <= config.warmup_epochs:
            raise InputError(
                f"--warmup_epochs {config.warmup_epochs}: leaves none of the {stage.epochs} "
                f"epochs of stage {stage.number}"
            )
