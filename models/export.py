"""Write the networks of a run as one ONNX file: an X-ray in, probabilities out.

    python -m models.export --run checkpoints/unet_resnet34/RUN
    python -m models.export --run checkpoints/unet_resnet34/RUN --folds 0 --out fold0.onnx

The graph holds one fold, or several with the mean of their probabilities:

    image        uint8 [B,1,H,W]: grey X-rays, prepared as in training, that is CLAHE at the
                 original size (where the run has it) and resizing to the size of the last stage,
                 as datasets.images.preprocess does
    probability  float32 [B,1,H,W], before any threshold
    deciding     float32 [B,1,H,W], only of a run with stage 3: `probability` is of that stage and
                 draws masks, this is of stage 2 and decides whether there is one
    presence     float32 [B], only of a run with a presence head: probability of a mask anywhere

Where a run keeps several epochs of a stage, all of them are averaged. Any batch size B; H and W are
fixed. The file's metadata say the same, with the folds. The file is then run by onnxruntime and
compared with PyTorch; one that differs by more than 0.001 is not kept. Needs the packages of
requirements-export.txt. Expect half a minute a network and the size of its checkpoint without the
optimizer, a third.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.config.settings import Config
from utils.config.stages import gate_stage, mask_stage
from utils.console import print0
from utils.distributed import launch
from utils.errors import InputError, command
from utils.files import atomic_write
from utils.inference.ensemble import Ensemble, open_ensemble
from utils.inference.runs import find_checkpoints, read_run_config

_TOLERANCE = 1e-3
_MOST_BYTES = 1536 * 2**20
"""Weights that torch still writes into one file."""

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
                    f"PyTorch's, more than {_TOLERANCE:g}. Try other versions of {_PACKAGES}"
                )
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from error
    networks = len({*checkpoints.mask, *checkpoints.gate})
    print0(
        f"{out}: {', '.join(graph.outputs)} of {len(config.fold_numbers())} folds, {networks} "
        f"networks; largest difference to PyTorch {difference:.2g}"
    )
    return 0


class Graph(nn.Module):
    """The exported part of an ensemble.

    Args:
        ensemble: returns `ProbabilityMaps`.
        config: the run's settings.

    Attributes:
        outputs: the names of what `forward` returns.
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
    """Return the side of the last stage's images, in pixels."""
    return mask_stage(config).image_size


def export(graph: Graph, config: Config, path: Path) -> None:
    """Write a graph with metadata that say how to use it."""
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
    """Return the metadata of the file: what goes in, what comes out, and where it is from."""
    size = last_size(config)
    meanings = {
        "probability": f"float32 [B,1,{size},{size}], of a pneumothorax at each pixel",
        "gate": f"float32 [B,1,{size},{size}], likewise, to decide whether there is any",
        "presence": "float32 [B], of a pneumothorax anywhere",
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
    """Return how far onnxruntime's probabilities are from PyTorch's, for a batch of 1 and of 3."""
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
            f"{', '.join(missing)} cannot be found: run pip install -r requirements-export.txt"
        )


def _check_fits(graph: Graph) -> None:
    size = sum(value.nbytes for value in graph.state_dict().values())
    if size > _MOST_BYTES:
        raise InputError(
            f"the weights of these folds are {size / 2**30:.1f} GiB, more than one ONNX file holds;"
            " export fewer of them with --folds"
        )


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m models.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--folds", default="all", help="all, one (0) or several (0,3)")
    parser.add_argument("--out", type=Path, help="file to write (RUN/model.onnx)")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
