"""The log of a fold: console, log.txt and TensorBoard."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from datasets.loaders import StageData
from utils.config.stages import Stage
from utils.console import print0
from utils.distributed import peak_gpu_memory
from utils.drawing import comparison
from utils.memory import peak_memory
from utils.postprocessing.rule import PostProcess
from utils.training.epoch import TrainResult
from utils.training.validation import Validation

Item = TypeVar("Item")


class EpochTimes:
    """Where the time of an epoch goes, in this process, from when this object is created.

    Attributes:
        seconds: by activity: loading (waiting for batches to train on), training, validating,
            writing.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds = dict.fromkeys(("loading", "training", "validating", "writing"), 0.0)

    @property
    def total(self) -> float:
        """Seconds so far, also those that belong to no activity."""
        return time.perf_counter() - self._started

    @contextmanager
    def spent(self, activity: str) -> Iterator[None]:
        """Add the time of the block to an activity, without what it spent loading."""
        started, loading = time.perf_counter(), self.seconds["loading"]
        yield
        waited = self.seconds["loading"] - loading
        self.seconds[activity] += time.perf_counter() - started - waited

    def loading(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, and add the time of waiting for each to loading."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds["loading"] += time.perf_counter() - started
            yield batch

    def describe(self) -> str:
        """Return the seconds so far, and the share of each activity and of all else."""
        total = self.total
        parts = self.seconds | {"other": total - sum(self.seconds.values())}
        shares = ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in parts.items())
        return f"{total:.1f} s: {shares}"


class FoldLog:
    """Console, log.txt and TensorBoard events of one fold, on rank 0, which opens it.

    TensorBoard steps count epochs from the start of the fold, so stage 2 continues where stage 1
    ended.

    Args:
        folder: the fold's folder.
        stages: all stages of the run.
    """

    def __init__(self, folder: Path, stages: tuple[Stage, ...]):
        self._stages = stages
        self._folder = folder
        self._path = folder / "log.txt"
        self._is_end_estimated = False
        self._events: SummaryWriter | None = None

    def open(self, first_epoch: int) -> None:
        """Start writing.

        Args:
            first_epoch: number of completed epochs of the fold. TensorBoard discards events from
                there on, which an interrupted epoch may have left.

        Raises:
            OSError: the folder cannot be written to.
        """
        # An unusable folder is reported here; TensorBoard's thread prints a traceback of it.
        self._path.touch()
        self._events = SummaryWriter(str(self._folder), purge_step=first_epoch)

    def line(self, text: str) -> None:
        """Print a line, and append it to log.txt with the time."""
        print0(text)
        if self._events is not None:
            with open(self._path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def stage(self, stage: Stage, data: StageData, start: dict, first_epoch: int) -> None:
        """Log the images of a stage and the weights that it starts from.

        Args:
            stage: the stage.
            data: its images.
            start: the checkpoint it starts from; empty if there is none.
            first_epoch: 0 to start the stage; otherwise the epoch to resume at.
        """
        origin = "from scratch or pretrained encoder weights"
        if first_epoch:
            origin = f"resuming after epoch {first_epoch}"
        elif start:
            where = f"the best weights of stage {start['stage']}"
            if stage.number == 1:
                run = f"{start['model_type']}/{start['config']['run_name']}"
                where = f"run {run}, fold {start['fold']}, stage {start['stage']}"
            origin = (
                f"from {where} (epoch {start['epoch'] + 1}), with a fresh optimizer, schedule and "
                "best score"
            )
        fold, images = data.fold, data.batches.images(0)
        positives = sum(name in fold.positive for name in fold.train)
        sampled = "" if images == len(fold.train) else f"{images} of "
        batches = len(data.batches.sizes(0))
        self.line(
            f"fold {fold.number} stage {stage.number}: {sampled}{len(fold.train)} images "
            f"({positives} positive), {batches} batches of {stage.batch_size} at "
            f"{stage.image_size} px, {stage.epochs} epochs, lr {stage.lr:.3g}; {origin}"
        )

    def curves(
        self, stage: Stage, epoch: int, trained: TrainResult, lr: float, result: dict | None
    ) -> None:
        """Add an epoch to the curves of TensorBoard; arguments as in `epoch`."""
        if self._events is None:
            return
        curves = {
            "loss/train": trained.loss,
            "lr": lr,
            "images_per_second": trained.images_per_second,
        }
        if result is not None:
            curves |= {
                "loss/val": result["loss"],
                "dice/all": result["dice"],
                "dice/positive": result["dice_positive"],
                "dice/empty_kept": result["empty_kept"],
            }
        for name, value in curves.items():
            self._events.add_scalar(name, value, self._step(stage, epoch))

    def epoch(
        self,
        stage: Stage,
        epoch: int,
        trained: TrainResult,
        lr: float,
        result: dict | None,
        is_best: bool,
        times: EpochTimes,
    ) -> None:
        """Log the line of an epoch, once its checkpoints are written.

        Args:
            stage: the stage.
            epoch: from 0.
            trained: result of the pass over the training images.
            lr: learning rate of the epoch; that after its last step if it changes every step.
            result: validation loss, the chosen rule and its scores; None without a validation.
            is_best: whether this is the best epoch of the stage so far.
            times: of the epoch.
        """
        validated = "not validated"
        if result is not None:
            validated = (
                f"val {result['loss']:.4f} | Dice {result['dice']:.4f} (all-empty "
                f"{result['baseline']:.4f}), positives {result['dice_positive']:.4f}, empties kept "
                f"{result['empty_kept']:.4f}"
            )
        memory = peak_gpu_memory() or peak_memory()
        notes = ["best so far"] if is_best else []
        notes += ["no masks predicted"] if result is not None and not result["predicted"] else []
        self.line(
            f"stage {stage.number} epoch {epoch + 1}/{stage.epochs}: loss {trained.loss:.4f}, "
            f"{validated} | lr {lr:.2e}, {trained.images_per_second:.1f} images/s, "
            f"{memory:.1f} GiB | {times.describe()}" + (f" | {', '.join(notes)}" if notes else "")
        )
        if result is not None and not self._is_end_estimated:
            self._is_end_estimated = True
            self._log_estimated_end(stage, epoch, times)

    def overlays(self, stage: Stage, epoch: int, validation: Validation, rule: PostProcess) -> None:
        """Add image, truth and prediction of some validation images to TensorBoard."""
        if self._events is not None and validation.overlay_samples:
            areas = rule.areas(validation.histograms)
            rows = [
                comparison(s.image, s.mask, rule.cut(s.levels) * np.uint8(areas[s.index] > 0))
                for s in validation.overlay_samples
            ]
            picture = np.vstack(rows)
            step = self._step(stage, epoch)
            self._events.add_image("overlay", picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Write all TensorBoard events so far to disk; its thread writes them some time later."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Write all TensorBoard events to disk, and end its thread."""
        if self._events is not None:
            self._events.close()

    def _step(self, stage: Stage, epoch: int) -> int:
        """Return the number of epochs from the start of the fold."""
        return sum(s.epochs for s in self._stages if s.number < stage.number) + epoch

    def _log_estimated_end(self, stage: Stage, epoch: int, times: EpochTimes) -> None:
        """Log the estimated end of the fold, from the first epoch with a validation."""
        # The time of an epoch is assumed to be proportional to the pixels of an image.
        seconds, remaining = 0.0, [(stage, epoch + 1)]
        remaining += [(s, 0) for s in self._stages if s.number > stage.number]
        for later, first in remaining:
            epochs = range(first, later.epochs)
            validations = sum(map(later.is_validated, epochs))
            share = later.image_size**2 / stage.image_size**2
            seconds += share * len(epochs) * (times.total - times.seconds["validating"])
            seconds += share * validations * times.seconds["validating"]
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
        self.line(f"estimated end of the fold: {end}, in {seconds / 60:.0f} minutes")
