"""Predict masks with the networks of one or more runs: Kaggle's csv, overlays, probability maps.

    python predict.py --run checkpoints/unet_resnet34/RUN --images dicom-images-test
    python predict.py --run checkpoints/unet_resnet34/RUN --images stage_2_images \\
        --sample_submission stage_2_sample_submission.csv
    python predict.py --run checkpoints/unet_resnet34/RUN --images a.dcm b.png \\
        --overlays overlays --threshold 0.4 --min_area 1024
    python predict.py --run checkpoints/unet_resnet34/A --run checkpoints/linknet/B \\
        --weights 0.6,0.4 --images dicom-images-test
    python predict.py --model model.onnx --images dicom-images-test    without PyTorch

Images of any size are preprocessed as in training. The probabilities of all folds and kept epochs
(with --tta, also of mirror images and scales) are averaged, resized to the original size and
thresholded with the run's threshold.json. --tta is by default that which these thresholds were
chosen with; python -m utils.blend chooses others. If a run has a stage 3, its networks draw the
masks, and those of stage 2 are the gate, which decides whether an image has a mask. Several runs
are averaged with --weights at the original size and thresholded as python -m utils.blend chose for
these runs, weights and --tta.

--model takes a file that python -m models.export wrote, with its preprocessing and thresholds, and
runs it with onnxruntime on the CPU; requirements-predict.txt is all that it needs.

Each device predicts a share of the images; memory does not grow with their number. Files are
written only after everything has succeeded:

    OUT            Kaggle's csv: ImageId,EncodedPixels, one row per image, -1 for no mask
    scores.csv     next to OUT: ImageId,probability,area. The probability of a mask is that of the
                   presence head or, without one, the maximum of the gate's map; the area is that of
                   the mask in pixels. Both are at the original size.
    OVERLAYS/      <id>.png: image, mask, probability; contact_sheet.png: 36 images at a glance
    PROBABILITIES/ <id>.png: 8-bit maps at the original size, level floor(255 p)
    DICOM_SEG/     <id>.dcm: a DICOM Segmentation of each image with a mask, for radiology viewers

Exit code: 0; 2 if an input cannot be used, in which case nothing is written.
"""

import sys

from utils.commands.early import check_prediction
from utils.config.prediction import parse_predict_options
from utils.errors import command


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse_predict_options(args, __doc__)
    check_prediction(options)
    if options.model is None:
        from utils.commands.predict import predict
    else:
        from utils.commands.predict_onnx import predict

    predict(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
