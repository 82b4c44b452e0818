"""Solver: trains one fold through its stages; works for every network."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from datasets.batches import plan_steps, seed_of
from datasets.loaders import StageData
from datasets.siim import Source
from datasets.splits import Fold
from models import build_model
from utils.checkpoint import FoldCheckpoints
from utils.config import Config, Stage
from utils.failures import Place, explaining
from utils.log import FoldLog
from utils.loss import bce
from utils.optimizer import build_optimizer
from utils.preemption import Stopped, noting_signals
from utils.processes import any_process, check_equal, fastest_layout, share_buffers
from utils.resume import find_position
from utils.threshold import best_pair, score
from utils.training import Trained, train
from utils.validation import Validation, validate

_SHOWN = 4
"""Validation images drawn for TensorBoard."""
_FRESH_SCALER = torch.amp.GradScaler("cpu").state_dict()
"""Where the scaling of float16 losses begins in every stage; other precisions have none."""


class Solver:
    """Trains one fold through its stages.

    Stage 2 starts from stage 1's best weights, with a fresh optimizer, schedule and best score.

    Args:
        fabric: devices, processes and precision; already launched.
        config: settings of the run, the seed among them.
        stages: all stages of the run, in order.
        fold: the images to learn from and to validate on.
        source: the pixels of every image.
        folder: the fold's folder, which exists.
        prior: share of mask pixels over the training images.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: Config,
        stages: tuple[Stage, ...],
        fold: Fold,
        source: Source,
        folder: Path,
        prior: float,
    ):
        self.fabric = fabric
        self.config = config
        self.stages = stages
        self.fold = fold
        self.source = source
        self.folder = folder
        self.prior = prior
        self.checkpoints = FoldCheckpoints(folder)
        self.loss_function = bce
        self.told_to_stop: Callable[[], bool] = lambda: False

    def fit(self) -> None:
        """Train every stage and write oof.npz from the last stage's best weights.

        What an earlier run left is taken up in this order:
        1. A fold with oof.npz is finished and is left alone.
        2. A file that was left half written is removed; no file of that kind is ever read.
        3. The first epoch still to do is found (`utils.resume`); what is before it is skipped.
        4. A stage with a last checkpoint takes weights, optimizer, schedule, scaler and best score
           from it.
        5. Any other stage begins anew: from the best weights of the stage before it, or, if it is
           the first, from the weights that the network was built with.
        """
        if (self.folder / "oof.npz").exists():
            return
        if self.fabric.is_global_zero:
            self.checkpoints.remove_leftovers()
        skip_first = self.config.mode == "train_stage2"
        position, first_epoch = find_position(self.checkpoints, self.stages, skip_first)
        done = sum(stage.epochs for stage in self.stages[:position]) + first_epoch
        self.log = FoldLog(self.folder, self.stages, done)
        with noting_signals() as self.told_to_stop, closing(self.log):
            for stage in self.stages[position:]:
                self.begin_stage(stage, first_epoch)
                for epoch in range(first_epoch, stage.epochs):
                    self.do_epoch(stage, epoch)
                self.end_stage(stage)
                first_epoch = 0
        if any_process(self.fabric, self.told_to_stop()):
            raise Stopped(
                f"stopped behind the last epoch of fold {self.fold.number}; go on with --run_name "
                f"{self.config.run_name} --resume true"
            )
        self.write_out_of_fold()

    def do_epoch(self, stage: Stage, epoch: int) -> None:
        """Train and validate once, and keep what came of it.

        Raises:
            Stopped: the process was told to stop; the epoch is dropped.
            InputError: the loss is not finite, or the memory is too small.
        """
        place = Place(
            self.config.run_name,
            self.folder,
            self.fold.number,
            stage,
            epoch,
            self.fabric.world_size,
        )
        with explaining(place, self.data.batches, self.told_to_stop):
            self.begin_epoch(stage, epoch)
            trained = self.train_epoch(stage, epoch)
            validation = self.validate(self._stop_alone)
        self.end_epoch(stage, epoch, trained, validation)

    def begin_stage(self, stage: Stage, first_epoch: int) -> None:
        """Build network, optimizer, schedule and loaders.

        Args:
            stage: what to train.
            first_epoch: 0 to begin anew; otherwise the epoch behind the stage's last checkpoint.
        """
        self.load_data(stage)
        start = self.build_module(stage, first_epoch)
        self.model = None
        precision = self.fabric.strategy.precision
        precision.load_state_dict(start["scaler"] if first_epoch else _FRESH_SCALER)
        optimizer, self.scheduler = build_optimizer(self.module, self.fabric, self.config, stage)
        self.best: dict | None = None
        if first_epoch:
            optimizer.load_state_dict(start["optimizer"])
            self.scheduler.load_state_dict(start["scheduler"])
            self.best = start["best"]
        self.optimizer = self.fabric.setup_optimizers(optimizer)
        self.log.stage(stage, self.fold, len(self.data.batches), start)

    def load_data(self, stage: Stage) -> None:
        """Open the loaders of a stage."""
        self.data = StageData(
            self.source,
            self.fold,
            stage,
            self.config,
            self._seed_parts(stage),
            self.fabric.global_rank,
            self.fabric.world_size,
        )

    def build_module(self, stage: Stage, first_epoch: int) -> dict:
        """Build the network with the weights that the stage starts from.

        Returns:
            The checkpoint that the weights are from; empty if there is none.
        """
        # The first process writes checkpoints; the others must not look for them too early.
        self.fabric.barrier()
        start = {}
        if first_epoch:
            start = self.checkpoints.load(stage.number, "last")
        elif stage.number > 1:
            start = self.checkpoints.load(stage.number - 1, "best")
        torch.manual_seed(seed_of(self.config.seed, self.fold.number))
        self.module = build_model(
            self.config.model_type,
            pretrained=self.config.pretrained and not start,
            encoder_weights=None if start else self.config.encoder_weights,
            t=self.config.t,
            prior=self.prior,
        )
        if start:
            self.module.load_state_dict(start["state_dict"])
        self.module.to(self.fabric.device, memory_format=fastest_layout(self.fabric))
        if self.config.compile:
            self.module.compile()
        return start

    def begin_epoch(self, stage: Stage, epoch: int) -> None:
        """Seed the epoch, and wrap the network for training where it is not."""
        torch.manual_seed(seed_of(*self._seed_parts(stage), epoch))
        self.data.batches.set_epoch(epoch)
        if self.model is None:
            self.model = self.fabric.setup_module(self.module)

    def set_train_mode(self) -> None:
        """Switch the network to training mode."""
        self.model.train()

    def train_epoch(self, stage: Stage, epoch: int) -> Trained:
        """Pass over the training images once."""
        self.set_train_mode()
        return train(
            self.fabric,
            self.model,
            self.optimizer,
            self._progress(stage, epoch),
            plan_steps(self.data.batches.sizes(), stage.group_size(epoch)),
            self.loss_function,
            self.config.clip_grad_norm,
            self.told_to_stop,
        )

    def validate(self, behind_batch: Callable[[], None] = lambda: None) -> Validation:
        """Predict the fold's validation images with the weights of now."""
        share_buffers(self.fabric, self.module)
        return validate(
            self.fabric,
            self.module,
            self.data.valid,
            self.fold.valid,
            self.loss_function,
            self._shown(),
            behind_batch,
        )

    def end_epoch(self, stage: Stage, epoch: int, trained: Trained, validation: Validation) -> None:
        """Rank the epoch, write its checkpoints and log it."""
        rule = best_pair(validation.histograms)
        scores = score(validation.histograms, rule)
        reached = {"epoch": epoch, "loss": validation.loss, **asdict(rule), **asdict(scores)}
        is_best = self.best is None or _rank(reached) > _rank(self.best)
        if is_best:
            self.best = reached
        lr = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        if self.fabric.is_global_zero:
            self.save(stage, epoch, is_best)
            self.log.epoch(stage, epoch, trained, lr, reached, is_best)
            self.log.overlays(stage, epoch, validation, rule)

    def save(self, stage: Stage, epoch: int, is_best: bool) -> None:
        """Write the stage's last checkpoint, which is also its best if `is_best`."""
        content = {
            "state_dict": self.module.state_dict(),
            "model_type": self.config.model_type,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stage": stage.number,
            "epoch": epoch,
            "fold": self.fold.number,
            "scaler": self.fabric.strategy.precision.state_dict(),
            "best": self.best,
            "config": asdict(self.config),
        }
        self.checkpoints.save(content, is_best)

    def end_stage(self, stage: Stage) -> None:
        """Make sure that all processes hold the same weights."""
        if self.fabric.world_size > 1:
            checksum = check_equal(self.fabric, self.module)
            self.log.line(
                f"stage {stage.number}: weights are equal on {self.fabric.world_size} processes "
                f"(checksum {checksum:.9g})"
            )

    def write_out_of_fold(self) -> None:
        """Validate the last stage's best weights and write oof.npz, which ends a fold."""
        stage = self.stages[-1]
        self.load_data(stage)
        self.fabric.barrier()
        self.module = build_model(self.config.model_type, pretrained=False, t=self.config.t)
        self.module.load_state_dict(self.checkpoints.load(stage.number, "best")["state_dict"])
        self.module.to(self.fabric.device, memory_format=fastest_layout(self.fabric))
        histograms = self.validate().histograms
        if self.fabric.is_global_zero:
            histograms.save(self.folder / "oof.npz")
        self.fabric.barrier()

    def _seed_parts(self, stage: Stage) -> tuple[int, int, int]:
        return self.config.seed, self.fold.number, stage.number

    def _progress(self, stage: Stage, epoch: int) -> tqdm:
        title = f"fold {self.fold.number} stage {stage.number} epoch {epoch + 1}/{stage.epochs}"
        return tqdm(self.data.train, title, leave=False, disable=not self.fabric.is_global_zero)

    def _stop_alone(self) -> None:
        """Stop a validation; several processes finish it, as they could not agree where to stop."""
        if self.fabric.world_size == 1 and self.told_to_stop():
            raise Stopped

    def _shown(self) -> set[int]:
        """Positions of the first positives among the images that this process validates."""
        mine = range(self.fabric.global_rank, len(self.fold.valid), self.fabric.world_size)
        positive = [i for i in mine if self.fold.valid[i] in self.fold.positive]
        return set(positive[:_SHOWN])


def _rank(reached: dict) -> tuple[float, float]:
    """Order epochs: by Dice, then by the lower validation loss."""
    return reached["dice"], -reached["loss"]
