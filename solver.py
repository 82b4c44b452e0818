"""Solver: trains all stages of one fold, for any network."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from datasets.folds import Fold
from datasets.loaders import StageData
from datasets.preprocessing import whole_pixel
from datasets.sampling import derive_seed
from datasets.sources.base import Pixels, PixelSource
from models.build import build_model
from utils.config.resume_command import resume_command
from utils.config.settings import Config
from utils.config.stages import Stage, gate_stage, mask_stage
from utils.config.tta import parse_tta
from utils.distributed import any_rank, decide_on_rank_zero, memory_format_for
from utils.inference.out_of_fold import write_out_of_fold
from utils.inference.runs import View, WeightedRun, fold_checkpoints
from utils.postprocessing.rule import score
from utils.postprocessing.search import best_pair
from utils.signals import Stopped, deferred_signals
from utils.training.checkpoints import FoldCheckpoints, find_resume_point, keep_best
from utils.training.epoch import TrainResult, train_epoch
from utils.training.failures import (
    EpochContext,
    check_validation_loss,
    check_weights,
    readable_deaths,
    readable_errors,
)
from utils.training.logger import EpochTimes, FoldLog
from utils.training.losses import build_loss
from utils.training.start.initial import load_start
from utils.training.state import TrainingState
from utils.training.validation import Validation, validate


@dataclass(eq=False)
class Solver:
    """Trains all stages of one fold.

    Every stage after the first starts from the best weights of the previous one, with a fresh
    optimizer, schedule and best score.

    Args:
        fabric: devices, processes and precision; already launched.
        config: settings of the run, with a seed.
        stages: all stages of the run, in order.
        fold: the images to train and to validate on.
        source: the pixels of every image.
        folder: the fold's folder, which must exist.
        prior: fraction of mask pixels over the training images.
        init_from: checkpoint of the network that stage 1 starts from; None for a new network.
    """

    fabric: Fabric
    config: Config
    stages: tuple[Stage, ...]
    fold: Fold
    source: PixelSource
    folder: Path
    prior: float
    init_from: Path | None = None

    def __post_init__(self) -> None:
        self.checkpoints = FoldCheckpoints(self.folder)
        self.model: nn.Module | None = None
        self.kept: list[dict] = []
        self.stop_requested: Callable[[], bool] = lambda: False

    def fit(self) -> None:
        """Train every stage, then write oof.npz with the last stage's best weights.

        An existing fold is resumed in this order:
        1. A fold with oof.npz is finished: nothing is done.
        2. Partially written files are removed; they are never read.
        3. The first epoch that remains is found (`find_resume_point`); earlier ones are skipped.
        4. A stage with a last checkpoint restores weights, optimizer, schedule, scaler and best
           score from it.
        5. Any other stage starts from its first epoch, with the best weights of the previous stage
           or, for the first stage, with those of `init_from`, or else the network's initial ones.
        """
        self.log = FoldLog(self.folder, self.stages)
        resume_point = decide_on_rank_zero(self.fabric, self.open_fold)
        if resume_point is None:
            return
        index, first_epoch = resume_point
        with deferred_signals() as self.stop_requested, closing(self.log):
            for stage in self.stages[index:]:
                self.begin_stage(stage, first_epoch)
                for epoch in range(first_epoch, stage.epochs):
                    self.run_epoch(stage, epoch)
                self.end_stage(stage)
                first_epoch = 0
        if any_rank(self.fabric, self.stop_requested()):
            raise Stopped(
                f"stopped after the last epoch of fold {self.fold.number}; resume with:\n"
                f"{resume_command(self.config, self.folder.parent)}"
            )
        self.write_out_of_fold()

    def open_fold(self) -> tuple[int, int] | None:
        """Clear the folder of what a killed process left, open the log, and find where to begin.

        Returns:
            The index of the stage and its epoch (from 0); None if the fold is finished.

        Raises:
            InputError: a checkpoint is damaged, or a stage that is to predict lacks its best one.
        """
        if (self.folder / "oof.npz").exists():
            return None
        self.checkpoints.remove_leftovers()
        skip_first = self.config.mode == "train_stage2"
        index, first_epoch = find_resume_point(self.checkpoints, self.stages, skip_first)
        predicting = {mask_stage(self.config).number, gate_stage(self.config).number}
        for stage in self.stages[:index]:
            if stage.number in predicting:
                self.checkpoints.check_best(stage.number)
        self.log.open(sum(stage.epochs for stage in self.stages[:index]) + first_epoch)
        return index, first_epoch

    def begin_stage(self, stage: Stage, first_epoch: int) -> None:
        """Build loaders, network, optimizer and schedule.

        Args:
            stage: the stage.
            first_epoch: 0 to start the stage; otherwise the epoch after its last checkpoint.
        """
        fold = self.fold.only_positives() if stage.positives_only else self.fold
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        self.data = StageData(self.source, fold, stage, self.config, rank, world_size)
        self.loss_function = build_loss(
            stage.loss, self.config.presence_weight, whole_pixel(self.config.mask_resize)
        )
        start = self.build_module(stage, first_epoch)
        steps = self.data.count_steps()
        self.state = TrainingState(self.fabric, self.module, self.config, stage, steps)
        self.kept = []
        if first_epoch:
            self.state.resume(start)
            # Checkpoints of versions without --keep_best hold only the best epoch.
            self.kept = start.get("kept", [start["best"]])
        if self.config.compile:
            self.module.compile()
        describe = partial(self.log.stage, stage, self.data, start, first_epoch)
        decide_on_rank_zero(self.fabric, describe)

    def build_module(self, stage: Stage, first_epoch: int) -> dict:
        """Build the network with the weights that the stage starts from.

        Returns:
            The checkpoint that the weights come from; empty if there is none.
        """
        start = self.checkpoints.load_start(stage.number, first_epoch)
        torch.manual_seed(derive_seed(self.data.seed_parts[0], self.fold.number))
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
        elif self.init_from is not None:
            start = load_start(self.module, self.init_from, self.config)
        self.module.to(self.fabric.device)
        self.module.to(memory_format=memory_format_for(self.fabric, self.config.memory_format))
        self.model = None
        return start

    def run_epoch(self, stage: Stage, epoch: int) -> None:
        """Train once and, if it is the epoch's turn, validate; then rank, save and log.

        Raises:
            Stopped: the process was asked to stop; the epoch is discarded.
            InputError: a loss is not finite, memory is exhausted, or a worker process died.
        """
        times = EpochTimes()
        number, processes = self.fold.number, self.fabric.world_size
        context = EpochContext(self.config, self.folder, number, stage, epoch, processes)
        with (
            readable_deaths(str(context), lambda: context.resume_command, self.source.check_files),
            readable_errors(context, self.data.batches, self.stop_requested),
        ):
            model = self.begin_epoch(stage, epoch)
            self.set_train_mode(model)
            with times.spent("training"):
                trained = self.train(model, epoch, f"{context}/{stage.epochs}", times)
            self.state.broadcast_buffers(self.fabric)
            validation = None
            if stage.is_validated(epoch):
                with times.spent("validating"):
                    validation = self.validate()
                check_validation_loss(context, validation.loss)
            else:
                check_weights(context, self.state.eval_module)
            self.end_epoch(stage, epoch, trained, validation, times)

    def begin_epoch(self, stage: Stage, epoch: int) -> nn.Module:
        """Seed the epoch, and return the network set up for training."""
        # The processes drop out different features; rank 0 those that a single process does.
        rank = self.fabric.global_rank
        own = [rank] if rank else []
        torch.manual_seed(derive_seed(*self.data.seed_parts, epoch, *own))
        self.data.batches.set_epoch(epoch)
        if self.model is None:
            self.model = self.fabric.setup_module(self.module)
        return self.model

    def set_train_mode(self, model: nn.Module) -> None:
        """Put the network into training mode."""
        model.train()

    def train(self, model: nn.Module, epoch: int, title: str, times: EpochTimes) -> TrainResult:
        """Train on every batch of the epoch, with a progress bar."""
        return train_epoch(
            self.fabric,
            model,
            self.state.optimizer,
            times.loading(
                tqdm(self.data.train, title, leave=False, disable=not self.fabric.is_global_zero)
            ),
            self.data.step_parts(epoch),
            self.loss_function,
            self.state.end_step,
            self.config.clip_grad_norm,
            self.stop_requested,
            self.config.normalisation,
        )

    def validate(self) -> Validation:
        """Predict the stage's validation images with the current weights."""
        return validate(
            self.fabric,
            self.state.eval_module,
            self.data.valid,
            self.data.fold.valid,
            self.loss_function,
            self.data.overlay_positions,
            self.stop_requested,
            self.config.normalisation,
        )

    def end_epoch(
        self,
        stage: Stage,
        epoch: int,
        trained: TrainResult,
        validation: Validation | None,
        times: EpochTimes,
    ) -> None:
        """Rank the epoch if it was validated, write its checkpoints, and log it.

        No process goes on before rank 0 has written: all of them read the checkpoints later.

        Raises:
            InputError: rank 0 cannot write; every process raises it.
        """
        result, rule = None, None
        if validation is not None:
            rule = best_pair(validation.histograms)
            scores = score(validation.histograms, rule)
            result = {"epoch": epoch, "loss": validation.loss, **asdict(rule), **asdict(scores)}
            self.kept = keep_best(self.kept, result, self.config)
        lr = self.state.schedule.lr
        self.state.schedule.end_epoch()

        def write() -> None:
            with times.spent("writing"):
                self.log.curves(stage, epoch, trained, lr, result)
                if validation is not None and rule is not None:
                    self.log.overlays(stage, epoch, validation, rule)
                # Before the checkpoint: a run killed here repeats the epoch, replacing its events.
                self.log.flush()
                number = self.fold.number
                content = self.state.checkpoint(self.config, number, stage, epoch, self.kept)
                self.checkpoints.save(content, several=self.config.keep_best > 1)
            is_best = result is not None and result is self.kept[0]
            self.log.epoch(stage, epoch, trained, lr, result, is_best, times)

        decide_on_rank_zero(self.fabric, write)

    def end_stage(self, stage: Stage) -> None:
        """Check that all processes hold the same weights, and free the stage's memory."""
        if self.fabric.world_size > 1:
            checksum = self.state.check_equal(self.fabric)
            self.log_line(
                f"stage {stage.number}: weights are equal on {self.fabric.world_size} processes "
                f"(checksum {checksum:08x})"
            )
        del self.state, self.data
        self.model = None

    def log_line(self, text: str) -> None:
        """Log a line; if rank 0 cannot write it, every process ends."""
        decide_on_rank_zero(self.fabric, lambda: self.log.line(text))

    def write_out_of_fold(self) -> None:
        """Predict the validation images as predict.py does; oof.npz marks the fold as finished."""
        runs = [WeightedRun(self.folder.parent, self.config, 1.0)]
        checkpoints = [fold_checkpoints(self.folder, self.config, "best")]
        ids, path = self.fold.valid, self.folder / "oof.npz"

        def pixels_of(view: View) -> Pixels:
            return self.source.pixels(ids, view.size)

        where = f"fold {self.fold.number}, prediction of its validation images"
        workers = self.config.num_workers
        command = partial(resume_command, self.config, self.folder.parent)
        with readable_deaths(where, command, self.source.check_files):
            write_out_of_fold(
                self.fabric,
                runs,
                checkpoints,
                pixels_of,
                ids,
                path,
                workers,
                tta=parse_tta(self.config.tta),
            )
