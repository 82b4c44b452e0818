"""What settings are refused for: types, ranges, and what two of them say against each other."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, get_args

from utils.config.stages import parse_share
from utils.errors import InputError
from utils.sizes import nearest_multiples
from utils.training.losses import build_loss

if TYPE_CHECKING:
    from utils.config.settings import Config

SIZE_STEP = 32
"""Networks halve the image five times, so its side is a multiple of this many pixels."""
MOST_FOLDS = 1000

_LEAST = {
    **dict.fromkeys(("batch_size_stage1", "batch_size_stage2", "num_nodes", "keep_best"), 1),
    **dict.fromkeys(("epoch_stage1", "epoch_stage2", "accumulation_steps", "t"), 1),
    **dict.fromkeys(("epoch_stage1_freeze", "epoch_stage2_accumulation", "epoch_stage3"), 0),
    **dict.fromkeys(("num_workers", "weight_decay", "seed", "clip_grad_norm", "warmup_epochs"), 0),
    **dict.fromkeys(("momentum", "ema", "presence_weight"), 0),
    **{"n_splits": 2, "restart_epochs": 2},
}
_BELOW_ONE = ("momentum", "ema")
_AT_MOST = (
    ("epoch_stage1_freeze", "epoch_stage1"),
    ("epoch_stage2_accumulation", "epoch_stage2"),
)


def check_types(settings: object) -> None:
    """Refuse a value that is not of its field's type; a whole number passes for a float.

    Args:
        settings: a dataclass whose fields are of plain types, unions of them, or Literal.

    Raises:
        InputError: a value is of another type; its field is named as a flag.
    """
    for setting in fields(settings):
        value, kinds = getattr(settings, setting.name), _kinds(setting.type)
        whole = type(value) is int and float in kinds
        if not whole and type(value) not in kinds and value not in kinds:
            names = (kind if isinstance(kind, str) else kind.__name__ for kind in kinds)
            listed = " or ".join(names).replace("NoneType", "null")
            raise InputError(f"--{setting.name} {value!r}: is not {listed}")


def _kinds(kind: type) -> tuple:
    """List the types, and the values of a Literal, that a type is made of."""
    parts = get_args(kind)
    return tuple(piece for part in parts for piece in _kinds(part)) if parts else (kind,)


def check_ranges(config: Config) -> None:
    """Refuse a setting that is out of range by itself, or against the one that limits it.

    Raises:
        InputError: one is; it is named as a flag.
    """
    for name in ("image_size_stage1", "image_size_stage2"):
        size = getattr(config, name)
        if size <= 0 or size % SIZE_STEP:
            near = " or ".join(str(good) for good in nearest_multiples(size, SIZE_STEP))
            raise InputError(f"--{name} {size}: must be a multiple of {SIZE_STEP}; use {near}")
    for name, value in _LEAST.items():
        given = getattr(config, name)
        if given is not None and not value <= given < float("inf"):
            raise InputError(f"--{name} {given}: must be at least {value}")
    for name in _BELOW_ONE:
        if getattr(config, name) >= 1:
            raise InputError(f"--{name} {getattr(config, name)}: must be below 1")
    if config.n_splits > MOST_FOLDS:
        raise InputError(f"--n_splits {config.n_splits}: must be at most {MOST_FOLDS}")
    for name, limit in _AT_MOST:
        if getattr(config, name) > getattr(config, limit):
            raise InputError(
                f"--{name} {getattr(config, name)}: is more than --{limit} {getattr(config, limit)}"
            )
    for name in ("lr", "lr_stage2", "lr_stage3"):
        if not 0 < getattr(config, name) < float("inf"):
            raise InputError(f"--{name} {getattr(config, name)}: must be above 0")
    for name in ("positive_share", "positive_share_stage2"):
        parse_share(getattr(config, name), f"--{name}")
    for name in ("loss", "loss_stage2", "loss_stage3"):
        text = getattr(config, name)
        if text is not None:
            build_loss(text, flag=f"--{name}")
    _check_run_name("run" if config.run_name is None else config.run_name)


def check_together(config: Config) -> None:
    """Refuse settings that contradict each other.

    Raises:
        InputError: two do; both are named as flags.
    """
    if config.run_name is None and (config.resume or config.mode != "train"):
        flag = "--resume true" if config.resume else f"--mode {config.mode}"
        raise InputError(f"{flag} needs --run_name: the run to go on with (last: the newest)")
    if not config.augmentation_flag and config.augmentation not in ("original", "none"):
        raise InputError(
            f"--augmentation {config.augmentation} and --augmentation_flag false contradict each "
            "other: leave one out"
        )
    second = {
        name: getattr(config, name)
        for name in ("loss_stage2", "positive_share_stage2", "schedule_stage2")
    }
    for name, value in second.items():
        if value is not None and not config.two_stage:
            raise InputError(f"--{name} {value}: there is no stage 2 with --two_stage false")
    if config.mode == "train_stage2" and not config.two_stage:
        raise InputError("--mode train_stage2: there is no stage 2 with --two_stage false")
    if config.epoch_stage3 and not config.two_stage:
        raise InputError(
            f"--epoch_stage3 {config.epoch_stage3}: goes on from stage 2, which --two_stage false "
            "leaves out"
        )
    if config.loss_stage3 is not None and not config.epoch_stage3:
        raise InputError(
            f"--loss_stage3 {config.loss_stage3}: there is no stage 3; give it --epoch_stage3"
        )
    _check_schedules(config)


def _check_schedules(config: Config) -> None:
    stages = config.stages(config.lr)
    restarts = any(stage.schedule == "restarts" for stage in stages)
    if restarts and config.restart_epochs is None:
        raise InputError("--schedule restarts needs --restart_epochs, the epochs between two")
    if config.restart_epochs is not None and not restarts:
        raise InputError(
            f"--restart_epochs {config.restart_epochs}: no stage has --schedule restarts"
        )
    for stage in stages if config.warmup_epochs else ():
        if stage.schedule == "one_cycle":
            raise InputError(
                f"--warmup_epochs {config.warmup_epochs}: one_cycle, the schedule of stage "
                f"{stage.number}, has a warm-up of its own"
            )
        if stage.epochs <= config.warmup_epochs:
            raise InputError(
                f"--warmup_epochs {config.warmup_epochs}: leaves nothing of the {stage.epochs} "
                f"epochs of stage {stage.number}"
            )


def _check_run_name(name: str) -> None:
    plain = name.isprintable() and name == name.strip() and not set(name) & set("/\\")
    if not plain or not name or name[0] == ".":
        raise InputError(f"--run_name {name!r}: is not a plain folder name")
