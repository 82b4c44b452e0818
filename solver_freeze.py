"""FreezeSolver: holds a pretrained encoder frozen in the first epochs of a stage."""

from solver import Solver
from utils.config.stages import Stage


class FreezeSolver(Solver):
    """A Solver whose encoder is frozen whole for `freeze_epochs`.

    A frozen encoder gets no gradients and its batch-norm statistics stand still. The optimizer
    holds every parameter from the start and leaves alone those without gradients.
    """

    def begin_epoch(self, stage: Stage, epoch: int) -> None:
        """Freeze or thaw the encoder, then begin the epoch."""
        frozen = epoch < stage.freeze_epochs
        encoder = self.module.encoder
        if any(p.requires_grad == frozen for p in encoder.parameters()):
            encoder.requires_grad_(not frozen)
            # DDP synchronises only what required gradients when it wrapped the network.
            self.model = None
            if frozen or epoch:
                self.log.line(f"encoder {'frozen' if frozen else 'thawed'} at epoch {epoch + 1}")
        super().begin_epoch(stage, epoch)

    def set_train_mode(self) -> None:
        """Switch to training mode all but a frozen encoder, whose statistics must not move."""
        super().set_train_mode()
        encoder = self.module.encoder
        if not any(p.requires_grad for p in encoder.parameters()):
            encoder.eval()
