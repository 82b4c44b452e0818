"""Export the networks of a run to one ONNX file that maps an X-ray to probabilities.

    python -m models.export --run checkpoints/unet_resnet34/RUN
    python -m models.export --run checkpoints/unet_resnet34/RUN --folds 0 --out fold0.onnx

The graph averages the probabilities of all folds and of all kept epochs. Input and outputs:

    image        uint8 [B,1,H,W], grey X-rays, prepared as by datasets.preprocessing.preprocess:
                 CLAHE at the original size, if the run uses it, then resizing to the image size of
                 the last stage
    probability  float32 [B,1,H,W], probability of a mask at each pixel, before any threshold
    gate         float32 [B,1,H,W], only if the run has a stage 3: the map of stage 2, which decides
                 whether the image has a mask; `probability` is that of stage 3
    presence     float32 [B], only if the run has a presence head: probability of a mask anywhere

The batch size B is free, H and W are fixed. The file's metadata repeat this and list the folds. The
exported file is run with onnxruntime, and removed if its outputs differ from PyTorch's by more than
0.001. Needs the packages in requirements-export.txt. Takes half a minute per network; the file is
about a third of the size of the checkpoints.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.config.settings import Config
from utils.config.stages import gate_stage, mask_stage
from utils.console import open_parser, print0
from utils.distributed import launch
from utils.errors import InputError, command
from utils.files import atomic_write
from utils.inference.ensemble import Ensemble, open_ensemble
from utils.inference.runs import find_checkpoints, read_run_config

_TOLERANCE = 1e-3
_MAX_BYTES = 1536 * 2**20
"""Maximum size of weights that torch exports to one file."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    _check_packages()
    config = read_run_config(options.run, options.folds)
    checkpoints = find_checkpoints(options.run, config, "best")
    out = options.out or options.run / "model.onnx"
    fabric = launch("cpu", 1, 1, "32-true")
    graph = Graph(open_ensemble(fabric, config, checkpoints, mirror=False), config)
    _check_fits(graph)
    try:
        with atomic_write(out) as temporary:
            export(graph, config, temporary)
            difference = largest_difference(graph, temporary, last_size(config))
            if not difference <= _TOLERANCE:
                raise InputError(
                    f"{out} was not written: its probabilities differ by {difference:.2g} from "
                    f"PyTorch's, more than {_TOLERANCE:g}. Try other versions of "
                    f"{', '.join(_PACKAGES)}"
                )
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error}); choose another --out") from error
    networks = len({*checkpoints.mask, *checkpoints.gate})
    print0(
        f"{out}: {', '.join(graph.outputs)} of {len(config.fold_numbers())} folds, {networks} "
        f"networks; largest difference from PyTorch {difference:.2g}"
    )
    return 0


class Graph(nn.Module):
    """The exported part of an ensemble.

    Args:
        ensemble: returns `ProbabilityMaps`.
        config: the run's settings.

    Attributes:
        outputs: names of the outputs of `forward`.
    """

    def __init__(self, ensemble: Ensemble, config: Config):
        super().__init__()
        self.ensemble = ensemble
        self.outputs = ["probability"]
        self.outputs += ["gate"] if gate_stage(config) != mask_stage(config) else []
        self.outputs += ["presence"] if config.presence_head else []
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Predict a batch, [B,1,S,S] uint8 grey."""
        maps = self.ensemble(image)
        return tuple(getattr(maps, name) for name in self.outputs)


def last_size(config: Config) -> int:
    """Return the image size of the last stage, in pixels."""
    return mask_stage(config).image_size


def export(graph: Graph, config: Config, path: Path) -> None:
    """Write a graph as ONNX, with metadata that describe its input and outputs."""
    size = last_size(config)
    program = torch.onnx.export(
        graph,
        (_noise(2, size),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        output_names=graph.outputs,
        verbose=False,
    )
    assert program is not None, "torch returns a program with dynamo=True"
    program.model.doc_string = f"pneumothorax segmentation, {config.model_type}"
    program.model.metadata_props.update(describe(config, graph.outputs))
    program.save(path)


def describe(config: Config, outputs: list[str]) -> dict[str, str]:
    """Return the metadata of the file: input, outputs and origin."""
    size = last_size(config)
    meanings = {
        "probability": f"float32 [B,1,{size},{size}], probability of a mask at each pixel",
        "gate": f"float32 [B,1,{size},{size}], decides whether the image has a mask",
        "presence": "float32 [B], probability of a mask anywhere",
    }
    clahe = "CLAHE (clip limit 2.0, 8x8 tiles) at the original size, then " if config.clahe else ""
    return {
        "input": f"image: uint8 [B,1,{size},{size}], grey X-rays after {clahe}resizing to "
        f"{size}x{size} (area when shrinking, bilinear when enlarging)",
        "output": "; ".join(f"{name}: {meanings[name]}" for name in outputs),
        "model_type": config.model_type,
        "run_name": str(config.run_name),
        "folds": ",".join(map(str, config.fold_numbers())),
        "image_size": str(size),
        "clahe": str(config.clahe).lower(),
    }


def largest_difference(graph: Graph, path: Path, size: int) -> float:
    """Return the largest difference between onnxruntime and PyTorch, for batches of 1 and 3."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for count in (1, 3):
        image = _noise(count, size)
        theirs = session.run(None, {"image": image.numpy()})
        differences += [
            (torch.from_numpy(array) - tensor).abs().max()
            for array, tensor in zip(theirs, graph(image), strict=True)
        ]
    return torch.stack(differences).max().item()


def _noise(count: int, size: int) -> Tensor:
    """Draw images: [count,1,size,size] uint8."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"not installed: {', '.join(missing)}; run pip install -r requirements-export.txt"
        )


def _check_fits(graph: Graph) -> None:
    size = sum(value.nbytes for value in graph.state_dict().values())
    if size > _MAX_BYTES:
        raise InputError(
            f"the weights of these folds take {size / 2**30:.1f} GiB, too much for one ONNX file; "
            "export fewer folds with --folds"
        )


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m models.export", __doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run to export")
    parser.add_argument(
        "--folds",
        default="all",
        help="folds to export: all, one (0) or several (0,3) (default: all)",
    )
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/model.onnx)")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
