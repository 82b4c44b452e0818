"""Solver: trains one fold through its stages; works for every network."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from datasets.folds import Fold
from datasets.loaders import StageData
from datasets.sampling import Part, plan_steps, seed_of
from datasets.siim import Source
from models import build_model
from utils.config.settings import Config
from utils.config.stages import Stage
from utils.distributed import any_process, check_equal, fastest_layout, share_buffers
from utils.inference.ensemble import Blend
from utils.inference.held_out import predict_held_out
from utils.inference.runs import fold_checkpoints, open_ensemble, view_of
from utils.postprocessing.rule import best_pair, score
from utils.signals import Stopped, noting_signals
from utils.training.checkpoints import FoldCheckpoints
from utils.training.epoch import Trained, train
from utils.training.failures import Place, check_validated, explaining
from utils.training.logger import FoldLog
from utils.training.losses import build_loss
from utils.training.ranking import keep_best
from utils.training.resume import find_position
from utils.training.state import Learner
from utils.training.validation import Validation, validate

_SHOWN = 4
"""Validation images drawn for TensorBoard."""


class Solver:
    """Trains one fold through its stages.

    Every further stage starts from the best weights of the one before, with a fresh optimizer,
    schedule and best score.

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
        # Optimizer, average and loaders take the memory that the networks of prediction may need.
        self.learner = self.model = self.data = None
        self.write_out_of_fold()

    def do_epoch(self, stage: Stage, epoch: int) -> None:
        """Train and validate once, and keep what came of it.

        Raises:
            Stopped: the process was told to stop; the epoch is dropped.
            InputError: a loss is not finite, or the memory is too small.
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
            check_validated(place, validation.loss)
        self.end_epoch(stage, epoch, trained, validation)

    def begin_stage(self, stage: Stage, first_epoch: int) -> None:
        """Build network, optimizer, schedule and loaders.

        Args:
            stage: what to train.
            first_epoch: 0 to begin anew; otherwise the epoch behind the stage's last checkpoint.
        """
        fold = self.fold.only_positives() if stage.positives_only else self.fold
        self.load_data(fold, stage)
        self.loss_function = build_loss(stage.loss, self.config.presence_weight)
        start = self.build_module(stage, first_epoch)
        self.model = None
        steps = [self._plan(stage, epoch) for epoch in range(stage.epochs)]
        count = sum(part.last for parts in steps for part in parts)
        self.learner = Learner(self.fabric, self.module, self.config, stage, count)
        self.kept: list[dict] = []
        if first_epoch:
            self.learner.resume(start)
            # Runs of the time before --keep_best have the best alone.
            self.kept = start.get("kept", [start["best"]])
        if self.config.compile:
            self.module.compile()
        self.log.stage(stage, fold, self.data.batches.images(0), len(steps[0]), start)

    def load_data(self, fold: Fold, stage: Stage) -> None:
        """Open the loaders of a stage for the images of a fold."""
        self.data = StageData(
            self.source,
            fold,
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
            presence_head=self.config.presence_head,
        )
        if start:
            self.module.load_state_dict(start["state_dict"])
        self.module.to(self.fabric.device, memory_format=fastest_layout(self.fabric))
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
            self.learner.optimizer,
            self._progress(stage, epoch),
            self._plan(stage, epoch),
            self.loss_function,
            self.learner.end_step,
            self.config.clip_grad_norm,
            self.told_to_stop,
        )

    def validate(self, behind_batch: Callable[[], None] = lambda: None) -> Validation:
        """Predict the stage's validation images with the weights of now."""
        module = self.learner.judged
        for shared in dict.fromkeys((self.module, module)):
            share_buffers(self.fabric, shared)
        return validate(
            self.fabric,
            module,
            self.data.valid,
            self.data.fold.valid,
            self.loss_function,
            self._shown(),
            behind_batch,
        )

    def end_epoch(self, stage: Stage, epoch: int, trained: Trained, validation: Validation) -> None:
        """Rank the epoch, write its checkpoints and log it."""
        rule = best_pair(validation.histograms)
        scores = score(validation.histograms, rule)
        reached = {"epoch": epoch, "loss": validation.loss, **asdict(rule), **asdict(scores)}
        self.kept = keep_best(self.kept, reached, self.config)
        lr = self.learner.schedule.lr
        self.learner.schedule.end_epoch()
        if self.fabric.is_global_zero:
            self.save(stage, epoch)
            self.log.epoch(stage, epoch, trained, lr, reached, is_best=reached is self.kept[0])
            self.log.overlays(stage, epoch, validation, rule)

    def save(self, stage: Stage, epoch: int) -> None:
        """Write the stage's last checkpoint, and keep it if the epoch is among the best."""
        content = {
            **self.learner.content(),
            "model_type": self.config.model_type,
            "stage": stage.number,
            "epoch": epoch,
            "fold": self.fold.number,
            "best": self.kept[0],
            "kept": self.kept,
            "config": asdict(self.config),
        }
        kept = [reached["epoch"] for reached in self.kept]
        self.checkpoints.save(content, kept, several=self.config.keep_best > 1)

    def end_stage(self, stage: Stage) -> None:
        """Make sure that all processes hold the same weights."""
        if self.fabric.world_size > 1:
            checksum = check_equal(self.fabric, self.learner.judged)
            check_equal(self.fabric, self.module)
            self.log.line(
                f"stage {stage.number}: weights are equal on {self.fabric.world_size} processes "
                f"(checksum {checksum:.9g})"
            )

    def write_out_of_fold(self) -> None:
        """Predict the validation images as predict.py does by default; oof.npz ends a fold."""
        self.fabric.barrier()
        config, ids = self.config, self.fold.valid
        checkpoints = fold_checkpoints(self.folder, config, "best")
        ensemble = open_ensemble(self.fabric, config, checkpoints, mirror=False)
        blend = Blend([ensemble], [view_of(config)], [1.0])
        pixels = [self.source.pixels(ids, view.size) for view in blend.views]
        batch_size = max(1, config.drawing_stage.batch_size // self.fabric.world_size)
        histograms = predict_held_out(
            self.fabric, blend, pixels, ids, batch_size, config.num_workers
        )
        if self.fabric.is_global_zero:
            histograms.save(self.folder / "oof.npz")
        self.fabric.barrier()

    def _plan(self, stage: Stage, epoch: int) -> list[Part]:
        return plan_steps(self.data.batches.sizes(epoch), stage.group_size(epoch))

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
        fold = self.data.fold
        mine = range(self.fabric.global_rank, len(fold.valid), self.fabric.world_size)
        positive = [i for i in mine if fold.valid[i] in fold.positive]
        return set(positive[:_SHOWN])
