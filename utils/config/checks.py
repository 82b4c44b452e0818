"""Checks that settings are consistent; the command line checks types and ranges."""

from utils.config.settings import Config
from utils.config.stages import build_stages, parse_loss
from utils.errors import InputError

_AT_MOST = (
    ("epoch_stage1_freeze", "epoch_stage1"),
    ("epoch_stage2_accumulation", "epoch_stage2"),
)


def check_settings(config: Config) -> None:
    """Refuse settings that contradict each other, and texts that cannot be parsed.

    Raises:
        InputError: a setting is refused; the message names it as a flag.
    """
    config.fold_numbers()
    _check_run_name(config)
    _check_augmentation(config)
    _check_stages(config)
    _check_schedules(config)


def _check_run_name(config: Config) -> None:
    if config.run_name is None:
        if config.resume or config.mode != "train":
            flag = "--resume true" if config.resume else f"--mode {config.mode}"
            raise InputError(f"{flag} needs --run_name, the run to continue (last: the newest)")
        return
    name = config.run_name
    plain = name.isprintable() and name == name.strip() and not set(name) & set("/\\")
    if not plain or not name or name[0] == ".":
        raise InputError(f"--run_name {name!r}: is not a plain folder name")


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
            parse_loss(text, f"--{name}")
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


def _check_schedules(config: Config) -> None:
    stages = build_stages(config)
    restarts = any(stage.schedule == "restarts" for stage in stages)
    if restarts and config.restart_epochs is None:
        raise InputError("--schedule restarts needs --restart_epochs, the epochs between restarts")
    if config.restart_epochs is not None and not restarts:
        raise InputError(
            f"--restart_epochs {config.restart_epochs}: no stage has --schedule restarts"
        )
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
