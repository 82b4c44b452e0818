"""Every setting: one dataclass behind the command line, `--help`, YAML files and config.yaml."""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import yaml

from utils.config.checks import check_ranges, check_together, check_types
from utils.config.stages import Stage, parse_share
from utils.config.yaml_files import read_yaml
from utils.cores import usable_cores
from utils.errors import InputError
from utils.files import atomic


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
    epoch_stage3: int = 0
    """Epochs of stage 3, on positives only, at the sizes of stage 2: the network of stage 2 then
    decides whether there is a mask, and that of stage 3 draws it; 0 has no such stage."""
    lr: float = 2e-4
    """Learning rate of stage 1: train_sfold.py takes it, main.py draws U(0,1) * lr + 5e-7."""
    lr_stage2: float = 5e-5
    """Learning rate of stage 2."""
    lr_stage3: float = 1e-5
    """Learning rate of stage 3."""
    loss: str = "bce"
    """Terms of the loss and their weights, such as bce:3,dice:1,focal:4; of bce, dice (of the whole
    batch), dice_image, focal and lovasz; bce(0.75) weighs the pixels of masks."""
    loss_stage2: str | None = None
    """Loss of stage 2; that of stage 1 if not given."""
    loss_stage3: str | None = None
    """Loss of stage 3; that of stage 2 if not given."""
    positive_share: float | str | None = None
    """Share of images with a mask in an epoch, such as 0.5, or from the first to the last epoch of
    a stage, such as 0.8:0.4: all of them and as many others as it asks for. Every image if not
    given."""
    positive_share_stage2: float | str | None = None
    """Likewise in stage 2; that of stage 1 if not given. A share below that of all images, such as
    0.01, takes every image."""
    schedule: Literal["cosine", "restarts", "one_cycle"] = "cosine"
    """Learning rate over a stage: cosine falls to 0, restarts does so every restart_epochs,
    one_cycle rises to lr and falls again."""
    schedule_stage2: Literal["cosine", "restarts", "one_cycle"] | None = None
    """Schedule of stages 2 and 3; that of stage 1 if not given."""
    warmup_epochs: int = 0
    """First epochs of every stage in which the rate rises to lr, before cosine or restarts."""
    restart_epochs: int | None = None
    """Epochs between two restarts."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimizer of every stage."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 0.0
    """Weight decay of the optimizer."""
    ema: float = 0.0
    """Decay of a moving average of the weights (such as 0.999), which is then what is validated and
    kept; 0 keeps the weights themselves."""
    keep_best: int = 1
    """Best epochs of a stage that are kept, and averaged in prediction."""
    best_by: Literal["dice", "loss", "last"] = "dice"
    """What the best epochs are chosen by: the highest validation Dice (then the lower loss), the
    lowest validation loss, or last, which takes the last ones whatever they reach: the rate has
    fallen to 0 there, and nothing is chosen on the images that are scored."""
    presence_weight: float = 0.0
    """Above 0 the network also says whether an image has a mask at all, trained with its own
    cross-entropy, which counts so much in the loss."""
    augmentation_flag: bool = True
    """Change training images at random."""
    augmentation: Literal["original", "final", "winner", "none"] = "original"
    """How; see python -m utils.augmentation --preview."""
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
        check_ranges(self)
        check_together(self)
        self.fold_numbers()

    def stages(self, lr: float) -> tuple[Stage, ...]:
        """Return the stages to train, in order.

        Args:
            lr: learning rate of stage 1, as taken or drawn by the entry script.
        """
        shares = [parse_share(self.positive_share, "--positive_share")]
        shares.append(parse_share(self.positive_share_stage2, "--positive_share_stage2"))
        first = Stage(
            number=1,
            image_size=self.image_size_stage1,
            batch_size=self.batch_size_stage1,
            epochs=self.epoch_stage1,
            lr=lr,
            loss=self.loss,
            schedule=self.schedule,
            positive_share=shares[0],
            freeze_epochs=self.epoch_stage1_freeze,
        )
        second = Stage(
            number=2,
            image_size=self.image_size_stage2,
            batch_size=self.batch_size_stage2,
            epochs=self.epoch_stage2,
            lr=self.lr_stage2,
            loss=self.loss_stage2 or self.loss,
            schedule=self.schedule_stage2 or self.schedule,
            positive_share=shares[1] or shares[0],
            accumulation_epochs=self.epoch_stage2_accumulation,
            accumulation_steps=self.accumulation_steps,
        )
        third = replace(
            second,
            number=3,
            epochs=self.epoch_stage3,
            lr=self.lr_stage3,
            loss=self.loss_stage3 or second.loss,
            positive_share=None,
            positives_only=True,
            accumulation_epochs=0,
        )
        count = 1 + self.two_stage + (self.epoch_stage3 > 0)
        return (first, second, third)[:count]

    @property
    def drawing_stage(self) -> Stage:
        """The stage whose networks draw the masks: the last."""
        return self.stages(self.lr)[-1]

    @property
    def deciding_stage(self) -> Stage:
        """The stage whose networks decide whether there is a mask: the last on all images."""
        return [stage for stage in self.stages(self.lr) if not stage.positives_only][-1]

    @property
    def presence_head(self) -> bool:
        """Whether the networks say of an image as a whole if it has a mask."""
        return self.presence_weight > 0

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


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text such as 2e-4, which jsonargparse, unlike yaml, takes for a number."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[\d.]+[eE][-+]?\d+$"), list("-+.0123456789")
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
