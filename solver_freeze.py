"""FreezeSolver: keeps a pretrained encoder frozen for the first epochs of a stage."""

from torch import nn

from models.interface import encoder_of
from solver import Solver
from utils.config.stages import Stage


class FreezeSolver(Solver):
    """A Solver that freezes the entire encoder for the first `stage.freeze_epochs`.

    A frozen encoder gets no gradients and keeps its batch-norm statistics. The optimizer holds
    every parameter from the start and skips those without gradients.
    """

    def begin_epoch(self, stage: Stage, epoch: int) -> nn.Module:
        """Freeze or thaw the encoder, then start the epoch."""
        frozen = epoch < stage.freeze_epochs
        encoder = encoder_of(self.module)
        if encoder is not None and any(p.requires_grad == frozen for p in encoder.parameters()):
            encoder.requires_grad_(not frozen)
            # DDP synchronises only parameters that required gradients when it wrapped the network.
            self.model = None
            if frozen or epoch:
                self.log_line(f"encoder {'frozen' if frozen else 'thawed'} at epoch {epoch + 1}")
        return super().begin_epoch(stage, epoch)

    def set_train_mode(self, model: nn.Module) -> None:
        """Put the network into training mode, except for a frozen encoder: its statistics stay."""
        super().set_train_mode(model)
        encoder = encoder_of(self.module)
        if encoder is not None and not any(p.requires_grad for p in encoder.parameters()):
            encoder.eval()
