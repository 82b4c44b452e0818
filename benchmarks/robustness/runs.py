"""Small real trainings in child processes, for tests that need many of them."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import main
from datasets import prepare, sample

_FLAGS = {
    "pretrained": "false",
    "n_splits": "2",
    "folds": "0",
    "image_size_stage1": "32",
    "batch_size_stage1": "4",
    "epoch_stage1_freeze": "1",
    "image_size_stage2": "64",
    "batch_size_stage2": "4",
    "accelerator": "cpu",
    "num_workers": "1",
    "seed": "1",
}


@contextmanager
def small_data(count: int) -> Iterator[Path]:
    """Prepare synthetic X-rays of 128x128 pixels in a temporary folder, for the runs as well."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        # So few and small images are drawn sooner than processes start.
        words = ["--size", "128", "--count", str(count), "--num_workers", "0"]
        sample.main(["--out", str(folder / "synthetic"), *words])
        images = str(folder / "synthetic" / "dicom-images-train")
        rle = str(folder / "synthetic" / "train-rle.csv")
        prepare.main(["--images", images, "--out", str(folder), "--rle", rle])
        yield folder


def start(
    folder: Path,
    run_name: str,
    changes: dict[str, str],
    prepare_child: Callable[[], None] = lambda: None,
) -> int:
    """Start a training like `python main.py`, in a fork to save the time of the imports.

    Args:
        folder: folder of the data; runs are written to its checkpoints/, their output to RUN.txt.
        run_name: name of the run.
        changes: flags that differ from `_FLAGS`.
        prepare_child: called first in the new process.

    Returns:
        The process id.
    """
    flags = _FLAGS | {"dataset_root": str(folder), "model_path": str(folder / "checkpoints")}
    flags |= {"run_name": run_name} | changes
    # A recipe comes first, since what follows it overrides its settings.
    flags = {"config": flags.pop("config"), **flags} if "config" in flags else flags
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    process = os.fork()
    if process == 0:
        code = 1
        try:
            output = os.open(folder / f"{run_name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            _write_to(output)
            prepare_child()
            code = main.main(words)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def fold_folder(folder: Path, run_name: str, network: str = "unet_resnet34") -> Path:
    """Return the folder of the fold that `start` trains."""
    return folder / "checkpoints" / network / run_name / "fold0"


def _write_to(output: int) -> None:
    """Send what this process prints to an open file, whoever printed to where before."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Those of the forked process may write elsewhere, as they do in a test whose output is kept,
    # or hold lines of that process.
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
