"""The log of a fold: on screen, in log.txt and in TensorBoard, from rank 0 only."""

import time
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from datasets.loaders import StageData
from utils.config.stages import Stage
from utils.console import is_main_process, print0
from utils.drawing import comparison
from utils.memory import peak_gpu_memory, peak_memory
from utils.postprocessing.rule import PostProcess
from utils.training.epoch import TrainResult
from utils.training.validation import Validation


class FoldLog:
    """Console, log.txt and TensorBoard events of one fold; does nothing on other ranks than 0.

    The x axis is epochs since the fold started, so stage 2 continues where stage 1 ended.

    Args:
        folder: the fold's folder.
        stages: all stages of the run.
        first_epoch: epochs of the fold that are done; later events, of an interrupted run, are
            discarded.
    """

    def __init__(self, folder: Path, stages: tuple[Stage, ...], first_epoch: int):
        self._stages = stages
        self._path = folder / "log.txt"
        self._first_epoch = first_epoch
        self._started = time.time()
        self._events = (
            SummaryWriter(str(folder), purge_step=first_epoch) if is_main_process() else None
        )

    def line(self, text: str) -> None:
        """Print a line, and write it with the time to log.txt."""
        print0(text)
        if self._events is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def stage(self, stage: Stage, data: StageData, start: dict) -> None:
        """Log what a stage trains on and what it starts from.

        Args:
            stage: the stage.
            data: its images.
            start: the checkpoint it starts from; empty if there is none.
        """
        origin = "from scratch or the encoder's pretrained weights"
        if start and start["stage"] == stage.number:
            origin = f"resuming after epoch {start['epoch'] + 1}"
        elif start:
            origin = (
                f"from the weights of stage {start['stage']}'s best epoch "
                f"({start['best']['epoch'] + 1}), with a fresh optimizer, schedule and best score"
            )
        fold, images = data.fold, data.batches.images(0)
        positives = sum(name in fold.positive for name in fold.train)
        drawn = "" if images == len(fold.train) else f"{images} of "
        batches = len(data.batches.sizes(0))
        self.line(
            f"fold {fold.number} stage {stage.number}: {drawn}{len(fold.train)} images "
            f"({positives} positive), {batches} batches of {stage.batch_size} at "
            f"{stage.image_size} px, {stage.epochs} epochs, lr {stage.lr:.3g}; {origin}"
        )

    def epoch(
        self,
        stage: Stage,
        epoch: int,
        trained: TrainResult,
        lr: float,
        result: dict,
        is_best: bool,
    ) -> None:
        """Log one epoch.

        Args:
            stage: the stage.
            epoch: from 0.
            trained: result of the pass over the training images.
            lr: learning rate of the epoch; that after the last step if it changes every step.
            result: validation loss, the chosen rule and its scores.
            is_best: whether the epoch is the stage's best so far.
        """
        x, speed = self._x(stage, epoch), trained.images_per_second
        if self._events is not None:
            for name, value in {
                "loss/train": trained.loss,
                "loss/val": result["loss"],
                "dice/all": result["dice"],
                "dice/positive": result["dice_positive"],
                "dice/empty_kept": result["empty_kept"],
                "lr": lr,
                "images_per_second": speed,
            }.items():
                self._events.add_scalar(name, value, x)
        memory = peak_gpu_memory() or peak_memory()
        notes = ["best so far"] if is_best else []
        notes += [] if result["predicted"] else ["no masks predicted"]
        self.line(
            f"stage {stage.number} epoch {epoch + 1}/{stage.epochs}: loss {trained.loss:.4f}, "
            f"val {result['loss']:.4f} | Dice {result['dice']:.4f} (all-empty "
            f"{result['baseline']:.4f}), positives {result['dice_positive']:.4f}, empties kept "
            f"{result['empty_kept']:.4f} | lr {lr:.2e}, {speed:.1f} images/s, "
            f"{memory:.1f} GiB" + (f" | {', '.join(notes)}" if notes else "")
        )
        if x == self._first_epoch:
            self._log_estimated_end(stage, epoch)

    def overlays(self, stage: Stage, epoch: int, validation: Validation, rule: PostProcess) -> None:
        """Draw image, truth and prediction of some validation images for TensorBoard."""
        if self._events is not None and validation.overlay_samples:
            areas = rule.areas(validation.histograms)
            rows = [
                comparison(s.image, s.mask, rule.cut(s.levels) * np.uint8(areas[s.index] > 0))
                for s in validation.overlay_samples
            ]
            pixels = np.vstack(rows)
            self._events.add_image("overlay", pixels, self._x(stage, epoch), dataformats="HWC")

    def close(self) -> None:
        """Flush TensorBoard events to disk."""
        if self._events is not None:
            self._events.close()

    def _x(self, stage: Stage, epoch: int) -> int:
        return sum(s.epochs for s in self._stages if s.number < stage.number) + epoch

    def _log_estimated_end(self, stage: Stage, epoch: int) -> None:
        """Estimate the end of the fold, with the time of an epoch proportional to its pixels."""
        to_do = (stage.epochs - epoch - 1) * stage.image_size**2
        to_do += sum(s.epochs * s.image_size**2 for s in self._stages if s.number > stage.number)
        seconds = (time.time() - self._started) * to_do / stage.image_size**2
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
        self.line(f"estimated end of the fold: {end}, in {seconds / 60:.0f} minutes")
