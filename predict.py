"""Predict masks with the networks of runs: a submission for Kaggle, pictures, probabilities.

    python predict.py --run checkpoints/unet_resnet34/RUN --images dicom-images-test
    python predict.py --run checkpoints/unet_resnet34/RUN --images stage_2_images \\
        --sample_submission stage_2_sample_submission.csv --tta hflip
    python predict.py --run checkpoints/unet_resnet34/RUN --images a.dcm b.png \\
        --overlays overlays --threshold 0.4 --min_area 1024
    python predict.py --run checkpoints/unet_resnet34/A --run checkpoints/linknet/B \\
        --weights 0.6,0.4 --images dicom-images-test

Images of any size are preprocessed as in training. The probabilities of all folds (and of all kept
epochs, and the mirror image) are averaged, brought to the size of the image, and cut by the run's
threshold.json. Where a run has a stage 3, its networks draw the masks and those of stage 2 decide
whether there is one. Several runs are averaged with their weights at the size of the image, and cut
by the thresholds that python -m utils.blend chose for these runs and weights.
Each device takes its share of the images; memory does not grow with their number. Once all has gone
well, there appear on disk:

    OUT            Kaggle's csv: ImageId,EncodedPixels, one row per image, -1 for no mask
    scores.csv     beside it: ImageId,probability,area; the probability of a mask by the presence
                   head, or where there is none the largest of any pixel of the map that decides,
                   and the area of the mask in pixels, both at the original size
    OVERLAYS/      <id>.png: image, mask, probability; contact_sheet.png: 36 images at a glance
    PROBABILITIES/ <id>.png: 8-bit maps at the original size, level floor(255 p)

Exit code: 0; 2 where something cannot be used, and then nothing is written.
"""

import sys

from utils.config.prediction import parse_predict_options
from utils.distributed import launch
from utils.errors import InputError, command
from utils.inference.prediction import predict
from utils.memory import readable_memory_errors


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse_predict_options(args, __doc__)
    fabric = launch(options.accelerator, options.devices, 1, options.precision)
    try:
        with readable_memory_errors():
            predict(fabric, options)
    except OSError as error:
        raise InputError(f"cannot be written: {error}") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
