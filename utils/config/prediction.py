"""Every setting of a prediction: the dataclasses that define the command lines and `--help`."""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from utils.config.command_line import HelpFormatter
from utils.config.number_types import BatchSize, PixelCount, UnitInterval, WorkerCount, plain
from utils.config.tta import TTAName
from utils.parallel import usable_cores

PrecisionName = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
_RUN_HELP = "Folder of a run. Given several times, the runs are blended: --run A --run B."
_OF_RUNS = (
    "run",
    "weights",
    "folds",
    "checkpoint",
    "num_workers",
    "accelerator",
    "devices",
    "precision",
)
"""Flags of predict.py that have no effect with --model."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings shared by all commands that predict with trained runs."""

    run: list[str]
    """Folder of a run. Given several times, the runs are blended: --run A --run B."""
    weights: str | None = None
    """Weight of each run of a blend, such as 0.6,0.4. Default: equal weights."""
    tta: TTAName | None = None
    """Test-time augmentation: hflip averages with the prediction of the mirrored image; scales
    averages over 0.9, 1.0 and 1.1 of the image size; hflip,scales over all six. Default: that which
    the thresholds were chosen with, or else that of the runs."""
    batch_size: BatchSize | None = None
    """Images per batch on each device. Default: the batch size of the runs' last stage, divided by
    the number of devices."""
    num_workers: WorkerCount = field(default_factory=lambda: min(8, usable_cores()))
    """Data loading processes per device; 0 loads in the predicting process."""
    accelerator: str = "auto"
    """Hardware to predict on: auto, cpu, cuda or mps."""
    devices: int | str = "auto"
    """Number of devices (or CPU processes) that share the images; auto uses all that are
    visible."""
    precision: PrecisionName = "auto"
    """Floating-point precision; auto is float32 if a run was trained in 32-true, otherwise bfloat16
    where the device supports it natively, else float16 on a GPU, else float32."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions(RunOptions):
    """Settings of predict.py."""

    model: Path | None = None
    """Exported network (.onnx) to predict with instead of --run, without PyTorch."""
    images: list[Path]
    """Images (DICOM, JPEG, PNG), or folders to search for them at any depth."""
    out: str = "submission.csv"
    """Path of the submission, which ends in .csv; scores.csv is written next to it."""
    ids: Literal["uid", "file", "path"] = "uid"
    """Ids of the images, as in python -m datasets.prepare: uid, the SOPInstanceUID of a DICOM and
    the stem of any other file; file, the stem of every file; path, the path below the folder in
    --images with __ between its parts."""
    sample_submission: Path | None = None
    """Csv with the ids to predict; the submission has the same order. Other images are skipped.
    Default: all images."""
    folds: str | int = "all"
    """Folds to average: all, one (0) or several (0,3)."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoints to use: best (all epochs that --keep_best kept) or last."""
    threshold: UnitInterval | None = None
    """Pixels with a probability above this belong to the mask. Default: from threshold.json."""
    min_area: PixelCount | None = None
    """Minimum number of pixels above top_threshold; an image with fewer gets no mask. Default: from
    threshold.json."""
    top_threshold: UnitInterval | None = None
    """Threshold of the image-level decision. Default: from threshold.json; --threshold if there is
    none, or if its rule draws no masks."""
    presence_threshold: UnitInterval | None = None
    """An image gets no mask unless its presence probability is above this; needs presence heads.
    Default: from threshold.json, else 0, which lets every image pass."""
    min_component_area: PixelCount | None = None
    """Minimum number of pixels of each component of a mask. Default: from threshold.json, else
    0."""
    min_component_mean: UnitInterval | None = None
    """Minimum mean probability of each component of a mask. Default: from threshold.json, else
    0."""
    overlays: Path | None = None
    """Folder for pictures of image, mask and probability, and a contact sheet. Default: none."""
    probabilities: Path | None = None
    """Folder for probability maps: 8-bit PNG at the original size. Default: none."""
    dicom_seg: Path | None = None
    """Folder for a DICOM Segmentation of each mask, which radiology viewers show on the X-ray; all
    images have to be DICOMs, and the packages in requirements-dicom-seg.txt are needed. Default:
    none."""
    seg_manufacturer: str | None = None
    """Manufacturer that the segmentations name. Default: the name of this software."""
    seg_creator: str | None = None
    """Person that the segmentations name as their creator, such as Doe^Jane. Default: empty."""
    seg_description: str | None = None
    """Description of the segmentations' series. Default: Pneumothorax (predicted)."""
    bits: Literal[8, 10, 12, 16] | None = None
    """Bits that 16-bit images use. Default: those of the runs' training images, else the fewest
    that hold the largest value of all images."""
    any_modality: bool = False
    """Accept DICOMs whose modality is not an X-ray, such as CT; otherwise they are refused."""
    skip_bad: bool = False
    """Skip images that cannot be read; false stops at them without writing anything."""


@dataclass(frozen=True, kw_only=True)
class BlendOptions(RunOptions):
    """Settings of utils.blend."""

    dataset_root: str | None = None
    """Folder with train_images/ and train_mask/. Default: that of the first run."""


def parse_predict_options(args: list[str] | None, description: str) -> PredictOptions:
    """Parse the command line of predict.py.

    Args:
        args: command-line arguments; None uses sys.argv.
        description: the first part of the help text.

    Raises:
        SystemExit: a flag is unknown or its value has the wrong type or range (code 2), or --help
            was given.
    """
    required = "{--run DIR | --model FILE.onnx} --images PATH ..."
    parser = _open_parser("python predict.py", required, description, is_run_required=False)
    # jsonargparse would expect a list as [a,b]; a shell expands *.png to several arguments.
    parser.add_argument(
        "--images",
        nargs="+",
        type=str,
        required=True,
        help="Images (DICOM, JPEG, PNG), or folders to search for them at any depth.",
    )
    settings = _parse(parser, args, PredictOptions, skip={"images"})
    _check_model(parser, parser.parse_args(args, defaults=False))
    paths = {"images": [Path(word) for word in settings["images"]], "run": settings["run"] or []}
    return PredictOptions(**settings | paths)


def blend_command(
    runs: Sequence[str | Path], weights: Sequence[float] = (), tta: str | None = None
) -> str:
    """Return the command of utils.blend for runs, or for one run with another --tta than its own.

    Args:
        runs: the folders of the runs.
        weights: of the runs; none for equal weights.
        tta: test-time augmentation; None for that of the runs.
    """
    words = [word for run in runs for word in ("--run", str(run))]
    # All digits, since the name of the results folder depends on the weights.
    words += ["--weights", ",".join(map(str, weights))] if weights else []
    words += ["--tta", tta] if tta else []
    return f"python -m utils.blend {shlex.join(words)}"


def parse_blend_options(args: list[str] | None, description: str) -> BlendOptions:
    """Parse the command line of utils.blend; see `parse_predict_options`."""
    parser = _open_parser("python -m utils.blend", "--run DIR ...", description)
    return BlendOptions(**_parse(parser, args, BlendOptions))


def _check_model(parser: ArgumentParser, given: Namespace) -> None:
    """Refuse --model with a run or with flags that have no effect on it, and neither of both."""
    if "model" not in given:
        if "run" not in given:
            parser.error("give --run DIR, the folder of a run, or --model FILE.onnx, an export")
        return
    unused = [f"--{name}" for name in _OF_RUNS if name in given]
    if unused:
        parser.error(
            f"{', '.join(unused)}: without effect on --model, an exported network that "
            "onnxruntime runs on the CPU; leave it out"
        )


def _open_parser(
    prog: str, required: str, description: str, is_run_required: bool = True
) -> ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} [--help] {required} [--SETTING VALUE ...]",
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run", action="append", type=str, required=is_run_required, help=_RUN_HELP
    )
    return parser


def _parse(
    parser: ArgumentParser,
    args: list[str] | None,
    kind: type[RunOptions],
    skip: Collection[str] = (),
) -> dict:
    """Parse the settings of `kind`; the parser already has those of `skip`."""
    parser.add_class_arguments(kind, skip={"run", *skip})
    parsed = parser.parse_args(args)
    return {setting.name: plain(parsed[setting.name]) for setting in fields(kind)}
