"""Every setting of a training: one dataclass for flags, `--help`, YAML files and config.yaml."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from utils.config.normalisation import Normalisation, parse_normalisation
from utils.config.number_types import (
    BatchSize,
    BelowOne,
    Count,
    CountOrZero,
    FoldCount,
    ImageSide,
    NonNegativeFloat,
    PositiveFloat,
    RestartCount,
    Seed,
    WorkerCount,
)
from utils.config.tta import TTAName
from utils.errors import InputError
from utils.files import atomic_write
from utils.parallel import usable_cores

DEVICES = frozenset({"accelerator", "devices", "num_nodes"})
"""Settings of the devices that a run is trained on. Its results depend a little on them: batch norm
and the Dice of a batch see the images of one device, and devices round differently."""
MAY_CHANGE = DEVICES | {
    *("folds", "mode", "resume", "run_name", "num_workers", "model_path", "dataset_root"),
    *("cache", "cache_dir", "exclude", "allow_empty", "pictures", "cases"),
}
"""Settings that may change when a run is resumed; the split must still match folds.csv. But for
`DEVICES`, they do not change the results."""


@dataclass(frozen=True)
class Config:
    """Settings of a run.

    `command_line` checks types and ranges, `checks.check_settings` whether settings are consistent.
    """

    model_type: str = "unet_resnet34"
    """Network, one of the names listed above."""
    pretrained: bool = True
    """Start the encoder from ImageNet weights, of an installed package or else downloaded on first
    use. With --init_from: false."""
    encoder_weights: str | None = None
    """File with encoder weights, used instead of --pretrained: a state dict or .safetensors file in
    the naming of timm, torchvision or EfficientNet-PyTorch, or a checkpoint of a network with the
    same encoder."""
    input_mean: float | str | None = None
    """Mean of red, green and blue that images are normalised with: one number, or three such as
    0.485,0.456,0.406, for values from 0 to 1. Default: what the weights to start from were trained
    with, and ImageNet's from scratch; it is printed and saved."""
    input_std: float | str | None = None
    """Standard deviation that images are normalised with, given and found like --input_mean."""
    init_from: str | None = None
    """Trained network that every fold starts from, whole, in stage 1: a checkpoint, or the folder
    of a run, of which fold k starts from the best weights of fold k's last stage. The encoder is
    frozen first all the same, while the decoder adapts; --epoch_stage1_freeze 0 trains everything
    from the first step."""
    t: Count = 3
    """Recurrent steps of R2U_Net and R2AttU_Net."""
    two_stage: bool = True
    """Train stage 2 after stage 1."""
    image_size_stage1: ImageSide = 512
    """Input size of stage 1: side of the square image, in pixels."""
    batch_size_stage1: BatchSize = 20
    """Images per batch in stage 1, over all devices."""
    epoch_stage1: Count = 60
    """Epochs of stage 1."""
    epoch_stage1_freeze: CountOrZero = 3
    """Epochs at the start of stage 1 with a frozen encoder; 0 never freezes it."""
    image_size_stage2: ImageSide = 1024
    """Input size of stage 2: side of the square image, in pixels."""
    batch_size_stage2: BatchSize = 4
    """Images per batch in stage 2, over all devices."""
    epoch_stage2: Count = 20
    """Epochs of stage 2."""
    epoch_stage2_accumulation: CountOrZero = 3
    """Epochs at the end of stage 2 that accumulate gradients."""
    accumulation_steps: Count = 10
    """Batches per optimizer step in those epochs."""
    epoch_stage3: CountOrZero = 0
    """Epochs of stage 3, which trains on positives only, with the sizes of stage 2. Its network
    then predicts the masks, and that of stage 2 is the gate. 0 skips stage 3."""
    lr: PositiveFloat = 2e-4
    """Learning rate of stage 1: train_sfold.py uses it, main.py draws U(0,1) * lr + 5e-7."""
    lr_stage2: PositiveFloat = 5e-5
    """Learning rate of stage 2."""
    lr_stage3: PositiveFloat = 1e-5
    """Learning rate of stage 3."""
    loss: str = "bce"
    """Loss: a weighted sum such as bce:3,dice:1,focal:4. Terms: bce, dice (over the whole batch),
    dice_image, focal, lovasz; bce(0.75) sets the weight of mask pixels."""
    loss_stage2: str | None = None
    """Loss of stage 2. Default: that of stage 1."""
    loss_stage3: str | None = None
    """Loss of stage 3. Default: that of stage 2."""
    positive_share: float | str | None = None
    """Share of positives in an epoch, such as 0.5, or from the first to the last epoch of a stage,
    such as 0.8:0.4. An epoch then has every positive and as many empty images as the share allows,
    drawn anew each epoch. Default: every image."""
    positive_share_stage2: float | str | None = None
    """Share of positives in stage 2; a share below that of the data set, such as 0.01, uses every
    image. Default: that of stage 1."""
    schedule: Literal["cosine", "restarts", "one_cycle", "linear"] = "cosine"
    """Learning-rate schedule of a stage: cosine decays to 0, restarts does so every restart_epochs,
    one_cycle rises to lr, then decays, linear stays at lr, then falls to 0 over the last
    decay_epochs."""
    schedule_stage2: Literal["cosine", "restarts", "one_cycle", "linear"] | None = None
    """Schedule of stages 2 and 3. Default: that of stage 1."""
    warmup_epochs: CountOrZero = 0
    """Linear warm-up epochs at the start of every stage, before any schedule but one_cycle."""
    restart_epochs: RestartCount | None = None
    """Epochs between restarts, for --schedule restarts."""
    decay_epochs: Count | None = None
    """Epochs at the end of a stage over which the rate falls to 0, for --schedule linear."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimizer of every stage."""
    momentum: BelowOne = 0.9
    """Momentum of sgd."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay."""
    ema: BelowOne = 0.0
    """Decay of an exponential moving average of the weights, such as 0.999. If above 0, the average
    is validated and saved instead of the weights."""
    keep_best: Count = 1
    """Number of best epochs to keep per stage; prediction averages them."""
    best_by: Literal["dice", "loss", "last"] = "dice"
    """What makes an epoch the best: highest validation Dice (ties: lower loss), lowest validation
    loss, or last, which keeps the last epochs, so that nothing is selected on the validation
    images."""
    validate_every: Count = 1
    """Epochs from one validation to the next; the last epoch of a stage is always validated. Only
    validated epochs can be the best."""
    presence_weight: NonNegativeFloat = 0.0
    """Weight of an image-level loss. If above 0, the network gets a presence head, which predicts
    whether an image has a mask."""
    augmentation_flag: bool = True
    """Augment training images."""
    augmentation: Literal["original", "final", "winner", "none"] = "original"
    """Augmentation set; python -m datasets.preview --out sheet.png shows what each does."""
    augment_at: Literal["stage", "source"] = "stage"
    """Where images are augmented: at the stage's size, or, as the competition's best do, at 1024
    pixels before they are resized to it. Noise, blur and distortions are then weaker for the
    network, and an image takes longer."""
    mask_resize: Literal["nearest", "area", "soft"] = "nearest"
    """How masks are resized for training: nearest moves them by half an original pixel; area keeps
    the pixels that they cover by more than half; soft is the share of each pixel that they cover.
    Scores are at the original size in any case."""
    tta: TTAName = "none"
    """Test-time augmentation of the out-of-fold prediction, on which thresholds are chosen, and by
    default of predict.py. hflip averages with the prediction of the mirrored image; scales
    averages over 0.9, 1.0 and 1.1 of the image size; hflip,scales over all six."""
    clahe: bool = True
    """Apply CLAHE to every image before resizing."""
    n_splits: FoldCount = 5
    """Number of folds."""
    folds: str | int = "all"
    """Folds to train: all, one (0) or several (0,3)."""
    groups: str | None = None
    """A csv with the columns ImageId and PatientId, or others of their usual names such as Image
    Index and Patient ID; all images of a patient go into one fold."""
    exclude: str | None = None
    """Text file of image ids to leave out, one per line; # starts a comment."""
    allow_empty: bool = False
    """Train even if the data set, or a part of a fold, has no positive; refused by default."""
    mode: Literal["train", "train_stage2", "choose_threshold"] = "train"
    """train runs every stage; train_stage2 starts from the stage-1 checkpoints of --run_name;
    choose_threshold only repeats the threshold search of --run_name, which ends every training."""
    seed: Seed | None = None
    """Seed of weights, order and augmentation. Default: random; it is printed and saved."""
    run_name: str | None = None
    """Name of the run's folder; last means the newest run. Default: the current time."""
    resume: bool = False
    """Resume the run --run_name where it stopped."""
    num_workers: WorkerCount = field(default_factory=lambda: min(8, usable_cores()))
    """Data loading processes per training process; 0 loads in the training process."""
    accelerator: str = "auto"
    """Hardware to train on: auto, cpu, cuda or mps."""
    devices: int | str = "auto"
    """Number of devices (or CPU processes) to train on; auto uses all that are visible."""
    num_nodes: Count = 1
    """Number of machines (started by torchrun or SLURM)."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Floating-point precision; auto is bfloat16 where the device supports it natively, else
    float16 on a GPU, else float32. A run keeps what auto was when it started."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """Order of the weights in memory; auto is the faster for the device. A run keeps what auto was
    when it started."""
    cache: bool = True
    """Prepare every image once and memory-map it; false decodes and prepares it in every epoch."""
    cache_dir: str | None = None
    """Folder of the cache. Default: DATASET_ROOT/cache."""
    clip_grad_norm: NonNegativeFloat = 0.0
    """Maximum gradient norm of a step; 0 disables clipping."""
    deterministic: bool = False
    """Use only deterministic algorithms: bit-identical results, slower on a GPU."""
    compile: bool = False
    """Compile the network: minutes at the start of each stage, then faster steps on a GPU."""
    pictures: bool = True
    """Show X-rays in report.html, which makes it patient data."""
    cases: Count = 4
    """X-rays of each kind in report.html: missed, false, worst, best and median ones."""
    model_path: str = "./checkpoints"
    """Folder of all runs."""
    dataset_root: str = "./datasets/SIIM_data"
    """Folder with train_images/ and train_mask/."""

    @property
    def presence_head(self) -> bool:
        """Whether the networks have a presence head."""
        return self.presence_weight > 0

    @property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the images; ImageNet's in runs that name none."""
        return parse_normalisation(self.input_mean, self.input_std)

    @property
    def augments(self) -> bool:
        """Whether training images are augmented."""
        return self.augmentation_flag and self.augmentation != "none"

    def fold_numbers(self) -> list[int]:
        """Return the folds to train, ascending.

        Raises:
            InputError: `folds` is neither all nor comma-separated numbers below `n_splits`.
        """
        if self.folds == "all":
            return list(range(self.n_splits))
        words = [word.strip() for word in str(self.folds).split(",")]
        if not set(words) <= {str(number) for number in range(self.n_splits)}:
            raise InputError(
                f"--folds {self.folds}: give all, or fold numbers from 0 to {self.n_splits - 1} "
                "separated by commas, such as 0,3"
            )
        return sorted({int(word) for word in words})

    def save(self, path: str | Path, replace: bool = True) -> None:
        """Write the settings as YAML, for `--config` and `load_config`.

        Raises:
            FileExistsError: the file exists and `replace` is False.
        """
        with atomic_write(path, replace=replace) as temporary:
            text = yaml.dump(asdict(self), Dumper=_Dumper, sort_keys=False)
            temporary.write_text(text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Quotes text such as 2e-4, which jsonargparse, unlike yaml, reads as a number."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[\d.]+[eE][-+]?\d+$"), list("-+.0123456789")
)
