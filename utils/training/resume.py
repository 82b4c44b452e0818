"""Where a fold goes on that an earlier process began."""

from utils.config.stages import Stage
from utils.training.checkpoints import FoldCheckpoints


def find_position(
    checkpoints: FoldCheckpoints, stages: tuple[Stage, ...], skip_first: bool
) -> tuple[int, int]:
    """Find the first epoch that is still to do.

    1. A stage whose last checkpoint is of its last epoch is finished; so is stage 1 if it is to be
       skipped, as with --mode train_stage2.
    2. A stage with a last checkpoint goes on behind that epoch.
    3. A stage without one begins with its first epoch.

    Args:
        checkpoints: of the fold.
        stages: all stages of the run, in order.
        skip_first: stage 1 is not trained, whatever is there of it.

    Returns:
        The position of the stage in `stages`, and the epoch (from 0) in that stage. Behind the last
        stage both point at what does not exist: len(stages) and 0.

    Raises:
        InputError: a checkpoint is damaged.
    """
    for position, stage in enumerate(stages):
        skipped = skip_first and stage.number == 1
        done = stage.epochs if skipped else checkpoints.epochs_done(stage.number)
        if done < stage.epochs:
            return position, done
    return len(stages), 0
