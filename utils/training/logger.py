"""What a fold says: on screen, in log.txt and to TensorBoard. Only the first process speaks."""

import time
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from datasets.folds import Fold
from utils.config.stages import Stage
from utils.console import is_main_process, say
from utils.drawing import comparison
from utils.memory import peak_gpu_memory, peak_memory
from utils.postprocessing.rule import PostProcess
from utils.training.epoch import Trained
from utils.training.validation import Validation


class FoldLog:
    """log.txt and TensorBoard events of one fold; silent in every process but the first.

    On the x axis are the epochs since the fold began, so stage 2 continues where stage 1 ended.

    Args:
        folder: the fold's folder.
        stages: all stages of the run.
        first_epoch: epochs since the fold began that are done; later events, of an interrupted run,
            no longer count.
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
        """Write a line to the screen and, with the time, to log.txt."""
        say(text)
        if self._events is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def stage(self, stage: Stage, fold: Fold, images: int, batches: int, start: dict) -> None:
        """Say what a stage trains on and what it starts from.

        Args:
            stage: the stage.
            fold: its images.
            images: those of them that the first epoch takes.
            batches: batches of the first epoch.
            start: the checkpoint it starts from, empty if there is none.
        """
        origin = "from new weights"
        if start and start["stage"] == stage.number:
            origin = f"going on behind epoch {start['epoch'] + 1}"
        elif start:
            origin = (
                f"from the weights of stage {start['stage']}'s best epoch "
                f"({start['best']['epoch'] + 1}), with a fresh optimizer, schedule and best score"
            )
        positives = sum(name in fold.positive for name in fold.train)
        drawn = "" if images == len(fold.train) else f"{images} of "
        self.line(
            f"fold {fold.number} stage {stage.number}: {drawn}{len(fold.train)} images "
            f"({positives} positive), {batches} batches of {stage.batch_size} at "
            f"{stage.image_size} px, {stage.epochs} epochs, rate {stage.lr:.3g}; {origin}"
        )

    def epoch(
        self,
        stage: Stage,
        epoch: int,
        trained: Trained,
        lr: float,
        reached: dict,
        is_best: bool,
    ) -> None:
        """Write the line and the points of one epoch.

        Args:
            stage: the stage.
            epoch: from 0.
            trained: what the pass over the training images gave.
            lr: learning rate of the epoch; where it changes with the steps, that behind the last.
            reached: validation loss, the rule chosen and its scores.
            is_best: whether the epoch is the stage's best so far.
        """
        x, speed = self._x(stage, epoch), trained.images_per_second
        if self._events is not None:
            for name, value in {
                "loss/train": trained.loss,
                "loss/val": reached["loss"],
                "dice/all": reached["dice"],
                "dice/positive": reached["dice_positive"],
                "dice/empty_kept": reached["empty_kept"],
                "lr": lr,
                "images_per_second": speed,
            }.items():
                self._events.add_scalar(name, value, x)
        memory = peak_gpu_memory() or peak_memory()
        notes = ["best so far"] if is_best else []
        notes += [] if reached["predicted"] else ["no mask predicted"]
        self.line(
            f"stage {stage.number} epoch {epoch + 1}/{stage.epochs}: loss {trained.loss:.4f}, "
            f"val {reached['loss']:.4f} | Dice {reached['dice']:.4f} (all-empty "
            f"{reached['baseline']:.4f}), positives {reached['dice_positive']:.4f}, empties kept "
            f"{reached['empty_kept']:.4f} | rate {lr:.2e}, {speed:.1f} images/s, "
            f"{memory:.1f} GiB" + (f" | {', '.join(notes)}" if notes else "")
        )
        if x == self._first_epoch:
            self._line_estimated_end(stage, epoch)

    def overlays(self, stage: Stage, epoch: int, validation: Validation, rule: PostProcess) -> None:
        """Draw image, truth and prediction of some validation images for TensorBoard."""
        if self._events is not None and validation.shown:
            areas = rule.areas(validation.histograms)
            rows = [
                comparison(s.image, s.mask, rule.cut(s.levels) * np.uint8(areas[s.index] > 0))
                for s in validation.shown
            ]
            pixels = np.vstack(rows)
            self._events.add_image("overlay", pixels, self._x(stage, epoch), dataformats="HWC")

    def close(self) -> None:
        """Write what TensorBoard reads to disk."""
        if self._events is not None:
            self._events.close()

    def _x(self, stage: Stage, epoch: int) -> int:
        return sum(s.epochs for s in self._stages if s.number < stage.number) + epoch

    def _line_estimated_end(self, stage: Stage, epoch: int) -> None:
        """Take the time of an epoch to grow with its pixels."""
        to_do = (stage.epochs - epoch - 1) * stage.image_size**2
        to_do += sum(s.epochs * s.image_size**2 for s in self._stages if s.number > stage.number)
        seconds = (time.time() - self._started) * to_do / stage.image_size**2
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
        self.line(f"at this pace the fold ends about {end}, in {seconds / 60:.0f} minutes")
