"""Choose the thresholds of a blend of runs, or of a run with another --tta, out of fold.

    python -m utils.blend --run checkpoints/unet_resnet34/A --run checkpoints/linknet/B
    python -m utils.blend --run checkpoints/unet_resnet34/A --run checkpoints/linknet/B \\
        --weights 0.6,0.4 --tta hflip
    python -m utils.blend --run checkpoints/unet_resnet34/A --tta hflip

The last one chooses the thresholds of a single run for another --tta than it was trained with;
those for its own are in its folder.

Every training image is predicted by the networks of each run that were not trained on it, as
predict.py predicts new images: each run at its own size and with its own preprocessing, then the
weighted mean of their maps at the original size. All runs must therefore have the same folds; a
fold that one of them has not finished is left out. Takes as long as predicting all training images
with one fold of each run.

The training images are read from --dataset_root, by default that of the first run, and have to be
those that every run was trained on. Results are written to a folder in blends/, next to the folders
of the networks, once all of them are complete. Its name depends on runs, weights and --tta only, so
that predict.py finds threshold.json from the same flags:

    fold0/oof.npz ...              the predictions, see docs/training.md
    threshold.json, threshold.png  the thresholds and the scores they reach
    summary.json, folds.csv        the folds
    blend.json                     runs, weights and settings of this command

All runs are predicted with the same --tta, by default theirs if they agree. predict.py uses the
thresholds that fit its --tta; if only others were chosen, it uses these and prints a note. Exit
code: 0, or 2 if a run, an image or a setting cannot be used, or another process writes the same
folder.
"""

import sys

from utils.commands.early import check_blend
from utils.config.prediction import parse_blend_options
from utils.errors import command


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse_blend_options(args, __doc__ or "")
    check_blend(options)
    from utils.commands.blend import blend

    blend(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
