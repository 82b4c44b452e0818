"""Predict masks with the networks of a run: a submission for Kaggle, pictures, probabilities.

    python predict.py --run checkpoints/unet_resnet34/RUN --images dicom-images-test
    python predict.py --run checkpoints/unet_resnet34/RUN --images stage_2_images \\
        --sample_submission stage_2_sample_submission.csv --tta hflip
    python predict.py --run checkpoints/unet_resnet34/RUN --images a.dcm b.png \\
        --overlays overlays --threshold 0.4 --min_area 1024

Images of any size are preprocessed as in training. The probabilities of all folds (and of the
mirror image) are averaged, brought to the size of the image, and cut by the run's threshold.json.
Each device takes its share of the images; memory does not grow with their number. Once all has gone
well, there appear on disk:

    OUT            Kaggle's csv: ImageId,EncodedPixels, one row per image, -1 for no mask
    scores.csv     beside it: ImageId,probability,area; the largest probability of any pixel and
                   the area of the mask in pixels, both at the original size
    OVERLAYS/      <id>.png: image, mask, probability; contact_sheet.png: 36 images at a glance
    PROBABILITIES/ <id>.png: 8-bit maps at the original size, level floor(255 p)

Exit code: 0; 2 where something cannot be used, and then nothing is written.
"""

import sys

from utils.errors import InputError, command
from utils.options import parse
from utils.prediction import predict
from utils.processes import launch


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse(args, __doc__)
    fabric = launch(options.accelerator, options.devices, 1, options.precision)
    try:
        predict(fabric, options)
    except OSError as error:
        raise InputError(f"cannot be written: {error}") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
