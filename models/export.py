"""Export the networks of a run to one ONNX file that maps an X-ray to probabilities.

    python -m models.export --run checkpoints/unet_resnet34/RUN
    python -m models.export --run checkpoints/unet_resnet34/RUN --folds 0 --out fold0.onnx

The graph averages the probabilities of all folds and of all kept epochs. It predicts an image as it
is, without test-time augmentation, even if the run's thresholds were chosen with --tta; a note says
so. Input and outputs:

    image        uint8 [B,1,H,W], grey X-rays, prepared as by datasets.preprocessing.preprocess:
                 CLAHE at the original size, if the run uses it, then resizing to the image size of
                 the last stage
    probability  float32 [B,1,H,W], probability of a mask at each pixel, before any threshold
    gate         float32 [B,1,H,W], only if the run has a stage 3: the map of stage 2, which decides
                 whether the image has a mask; `probability` is that of stage 3
    presence     float32 [B], only if the run has a presence head: probability of a mask anywhere

The batch size B is free, H and W are fixed. The file's metadata repeat this and list the folds.

The exported file is run with onnxruntime on drawn X-rays with and without a pneumothorax and on
noise. It is removed if its outputs differ from PyTorch's by more than 0.001, or the logits of any
network, before they are averaged, by more than 0.05: where a network predicts hardly any mask,
probabilities are close to 0 whatever its weights are. The logits are values inside the graph that
are made outputs for the test only.

Needs the packages in requirements-export.txt. Takes half a minute per network; the file is about a
third of the size of the checkpoints.
"""

import argparse
import sys
from pathlib import Path

from utils.commands.paths import file_to_write
from utils.console import open_parser
from utils.errors import command
from utils.inference.runs import read_run_config


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    read_run_config(options.run, options.folds)
    from utils.commands.export import export_run

    export_run(options.run, options.folds, options.out)
    return 0


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m models.export", __doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run to export")
    parser.add_argument(
        "--folds",
        default="all",
        help="folds to export: all, one (0) or several (0,3) (default: all)",
    )
    parser.add_argument(
        "--out",
        type=file_to_write("--out", ".onnx"),
        help="file to write, which ends in .onnx (default: RUN/model.onnx)",
    )
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
