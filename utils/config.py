"""Every setting: one dataclass behind the command line, `--help`, YAML files and config.yaml."""

import re
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from utils.cores import usable_cores
from utils.errors import InputError
from utils.files import atomic
from utils.plain_yaml import PlainConfigFile, read_yaml
from utils.setting_types import check_types
from utils.sizes import nearest_multiples

set_parsing_settings(docstring_parse_attribute_docstrings=True)

SIZE_STEP = 32
"""Networks halve the image five times, so its side is a multiple of this many pixels."""

MOST_FOLDS = 1000


@dataclass(frozen=True)
class Stage:
    """One stretch of training at one image size, with its own optimizer and schedule."""

    number: int
    """1 for the first stage."""
    image_size: int
    """Side of the square input in pixels."""
    batch_size: int
    """Images per step, over all processes."""
    epochs: int
    """Passes over the training images."""
    lr: float
    """Learning rate of the first epoch."""
    freeze_epochs: int = 0
    """First epochs in which the encoder is held frozen."""
    accumulation_epochs: int = 0
    """Last epochs in which gradients are accumulated."""
    accumulation_steps: int = 1
    """Batches per optimizer step in those epochs."""

    def group_size(self, epoch: int) -> int:
        """Return how many batches make one optimizer step in `epoch` (from 0)."""
        accumulates = epoch >= self.epochs - self.accumulation_epochs
        return self.accumulation_steps if accumulates else 1


@dataclass(frozen=True)
class Config:
    """Settings of a run."""

    model_type: str = "unet_resnet34"
    """Network, by its name in models/: see the list above."""
    pretrained: bool = True
    """Start the encoder from ImageNet weights, fetched once."""
    encoder_weights: str | None = None
    """File with weights for the encoder, instead of fetching them: a state dict of torchvision, or
    a checkpoint of a network with that encoder."""
    t: int = 3
    """Recurrent steps of R2U_Net and R2AttU_Net."""
    two_stage: bool = True
    """Train stage 2 after stage 1."""
    image_size_stage1: int = 512
    """Side of the square input of stage 1, in pixels."""
    batch_size_stage1: int = 20
    """Images per step of stage 1, over all processes."""
    epoch_stage1: int = 60
    """Epochs of stage 1."""
    epoch_stage1_freeze: int = 3
    """First epochs of stage 1 in which the encoder is held frozen; 0 never freezes."""
    image_size_stage2: int = 1024
    """Side of the square input of stage 2, in pixels."""
    batch_size_stage2: int = 4
    """Images per step of stage 2, over all processes."""
    epoch_stage2: int = 20
    """Epochs of stage 2."""
    epoch_stage2_accumulation: int = 3
    """Last epochs of stage 2 in which gradients are accumulated."""
    accumulation_steps: int = 10
    """Batches per optimizer step in those epochs."""
    lr: float = 2e-4
    """Learning rate of stage 1: train_sfold.py takes it, main.py draws U(0,1) * lr + 5e-7."""
    lr_stage2: float = 5e-5
    """Learning rate of stage 2."""
    weight_decay: float = 0.0
    """Weight decay of Adam."""
    augmentation_flag: bool = True
    """Flip, turn, blur and change the exposure of training images."""
    clahe: bool = True
    """Equalise the local contrast of every image (CLAHE) before resizing."""
    n_splits: int = 5
    """Number of folds the images are cut into."""
    folds: str | int = "all"
    """Folds to train: all, one (0) or several (0,3)."""
    groups: str | None = None
    """A csv with ImageId and PatientId: images of one patient then stay in one fold."""
    exclude: str | None = None
    """A text file with one image id per line (# begins a comment): these are left out."""
    mode: Literal["train", "train_stage2", "choose_threshold"] = "train"
    """train runs every stage; train_stage2 starts from the stage-1 checkpoints of --run_name;
    choose_threshold searches the thresholds of --run_name, which training does at its end too."""
    seed: int | None = None
    """Seed of weights, order and augmentation; drawn, printed and stored where not given."""
    run_name: str | None = None
    """Name of the run's folder; the time if not given; last is the newest run."""
    resume: bool = False
    """Go on where the run --run_name stopped."""
    num_workers: int = field(default_factory=lambda: min(8, usable_cores()))
    """Processes that load images, for each training process; 0 loads in the training process."""
    accelerator: str = "auto"
    """What to train on: auto, cpu, cuda or mps."""
    devices: int | str = "auto"
    """How many devices (or CPU processes) to train on; auto takes all that are visible."""
    num_nodes: int = 1
    """How many machines take part (started by torchrun or SLURM)."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Arithmetic; auto is bfloat16 where the device has it, else float16 on a GPU, else float32."""
    cache: bool = True
    """Prepare every image once and map it from disk; false reads and prepares it in every epoch."""
    cache_dir: str | None = None
    """Folder of the cache; DATASET_ROOT/cache if not given."""
    clip_grad_norm: float = 0.0
    """Largest norm of a step's gradient; 0 leaves gradients as they are."""
    deterministic: bool = False
    """Only use algorithms that give the same bits in every run, which on a GPU are slower."""
    compile: bool = False
    """Compile the network: minutes at the start of a stage, faster steps on a GPU."""
    model_path: str = "./checkpoints"
    """Folder of all runs."""
    dataset_root: str = "./datasets/SIIM_data"
    """Folder with train_images/ and train_mask/."""

    def __post_init__(self):
        check_types(self)
        self._check_sizes()
        self._check_counts()
        self.fold_numbers()
        self._check_run_name()
        if self.run_name is None and (self.resume or self.mode != "train"):
            flag = "--resume true" if self.resume else f"--mode {self.mode}"
            raise InputError(f"{flag} needs --run_name: the run to go on with (last: the newest)")

    def stages(self, lr: float) -> tuple[Stage, ...]:
        """Return the stages to train, in order.

        Args:
            lr: learning rate of stage 1, as taken or drawn by the entry script.
        """
        first = Stage(
            number=1,
            image_size=self.image_size_stage1,
            batch_size=self.batch_size_stage1,
            epochs=self.epoch_stage1,
            lr=lr,
            freeze_epochs=self.epoch_stage1_freeze,
        )
        second = Stage(
            number=2,
            image_size=self.image_size_stage2,
            batch_size=self.batch_size_stage2,
            epochs=self.epoch_stage2,
            lr=self.lr_stage2,
            accumulation_epochs=self.epoch_stage2_accumulation,
            accumulation_steps=self.accumulation_steps,
        )
        return (first, second) if self.two_stage else (first,)

    def fold_numbers(self) -> list[int]:
        """Return the folds to train, ascending.

        Raises:
            InputError: `folds` is not all, a number, or numbers with commas below `n_splits`.
        """
        if self.folds == "all":
            return list(range(self.n_splits))
        words = str(self.folds).split(",")
        if not all(word.strip().isdecimal() and int(word) < self.n_splits for word in words):
            raise InputError(
                f"--folds {self.folds}: give all, or fold numbers from 0 to {self.n_splits - 1} "
                "with commas, such as 0,3"
            )
        return sorted({int(word) for word in words})

    def save(self, path: str | Path, replace: bool = True) -> None:
        """Write the settings as YAML that `--config` reads.

        Raises:
            FileExistsError: the file is there, and is not to be replaced.
        """
        with atomic(path, replace=replace) as temporary:
            text = yaml.dump(asdict(self), Dumper=_Dumper, sort_keys=False)
            temporary.write_text(text, encoding="utf-8")

    def _check_sizes(self) -> None:
        for name in ("image_size_stage1", "image_size_stage2"):
            size = getattr(self, name)
            if size <= 0 or size % SIZE_STEP:
                near = " or ".join(str(good) for good in nearest_multiples(size, SIZE_STEP))
                raise InputError(f"--{name} {size}: must be a multiple of {SIZE_STEP}; use {near}")

    def _check_run_name(self) -> None:
        name = "run" if self.run_name is None else self.run_name
        plain = name.isprintable() and name == name.strip() and not set(name) & set("/\\")
        if not plain or not name or name[0] == ".":
            raise InputError(f"--run_name {name!r}: is not a plain folder name")

    def _check_counts(self) -> None:
        least = {"n_splits": 2, "epoch_stage1_freeze": 0, "epoch_stage2_accumulation": 0}
        least |= {"num_workers": 0, "weight_decay": 0, "seed": 0, "clip_grad_norm": 0}
        least |= dict.fromkeys(("batch_size_stage1", "batch_size_stage2", "num_nodes"), 1)
        least |= dict.fromkeys(("epoch_stage1", "epoch_stage2", "accumulation_steps", "t"), 1)
        for name, value in least.items():
            given = getattr(self, name)
            if given is not None and not given >= value:
                raise InputError(f"--{name} {given}: must be at least {value}")
        if self.n_splits > MOST_FOLDS:
            raise InputError(f"--n_splits {self.n_splits}: must be at most {MOST_FOLDS}")
        for name, limit in (
            ("epoch_stage1_freeze", "epoch_stage1"),
            ("epoch_stage2_accumulation", "epoch_stage2"),
        ):
            if getattr(self, name) > getattr(self, limit):
                raise InputError(
                    f"--{name} {getattr(self, name)}: is more than --{limit} {getattr(self, limit)}"
                )
        for name in ("lr", "lr_stage2"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"--{name} {getattr(self, name)}: must be above 0")


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text such as 2e-4, which jsonargparse, unlike yaml, takes for a number."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[\d.]+[eE][-+]?\d+$"), list("-+.0123456789")
)


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Shows types and defaults, and leaves the lines of the description as they are."""


def parse(args: list[str] | None, description: str) -> tuple[Config, frozenset[str]]:
    """Read the command line, and the YAML files that it names with `--config`.

    Args:
        args: the words behind the script's name; None takes those of the process.
        description: opens the help.

    Returns:
        The settings, and the names of those that were given rather than left at their defaults.

    Raises:
        InputError: settings contradict each other or are out of range.
        SystemExit: a flag is unknown or of the wrong type (code 2), or help was asked for.
    """
    parser = ArgumentParser(
        description=description, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action=PlainConfigFile, help="YAML file with settings, see recipes/."
    )
    parser.add_class_arguments(Config)
    every = parser.parse_args(args)
    given = parser.parse_args(args, defaults=False)
    names = [setting.name for setting in fields(Config)]
    return (
        Config(**{name: every[name] for name in names}),
        frozenset(name for name in names if name in given),
    )


def load(path: str | Path) -> Config:
    """Read a config.yaml that `Config.save` wrote.

    Raises:
        InputError: the file is missing, is not plain YAML, or has settings that do not exist or are
            out of range.
    """
    content = read_yaml(path)
    unknown = content.keys() - Config.__annotations__.keys() if isinstance(content, dict) else None
    if unknown or unknown is None:
        names = f"there is no setting {min(map(str, unknown))}" if unknown else "it names none"
        raise InputError(f"{path} cannot be read as the settings of a run: {names}")
    try:
        return Config(**content)
    except InputError as error:
        raise InputError(f"{path} cannot be read as the settings of a run: {error}") from error
