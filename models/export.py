"""Write the networks of a run as one ONNX file: an X-ray in, probabilities out.

    python -m models.export --run checkpoints/unet_resnet34/RUN
    python -m models.export --run checkpoints/unet_resnet34/RUN --folds 0 --out fold0.onnx

The graph holds one fold, or several with the mean of their probabilities:

    image        uint8 [B,1,H,W]: grey X-rays, prepared as in training, that is CLAHE at the
                 original size (where the run has it) and resizing to the size of the last stage,
                 as datasets.images.preprocess does
    probability  float32 [B,1,H,W], before any threshold

Any batch size B; H and W are fixed. The file's metadata say the same, with the folds. The file is
then run by onnxruntime and compared with PyTorch; one that differs by more than 0.001 is not kept.
Needs the packages of requirements-export.txt. Expect half a minute a fold and the size of its
checkpoint without the optimizer, a third.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor

from utils.config import Config
from utils.ensemble import Ensemble, find_checkpoints, load_network, read_settings
from utils.errors import InputError, command
from utils.files import atomic
from utils.processes import launch
from utils.rank import say

_TOLERANCE = 1e-3
_MOST_BYTES = 1536 * 2**20
"""Weights that torch still writes into one file."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    _check_packages()
    config = read_settings(options.run, options.folds)
    paths = find_checkpoints(options.run, config, "best")
    out = options.out or options.run / "model.onnx"
    fabric = launch("cpu", 1, 1, "32-true")
    ensemble = Ensemble(fabric, (load_network(path, config) for path in paths), mirror=False).eval()
    _check_fits(ensemble)
    try:
        with atomic(out) as temporary:
            export(ensemble, config, temporary)
            difference = largest_difference(ensemble, temporary, last_size(config))
            if not difference <= _TOLERANCE:
                raise InputError(
                    f"{out} was not written: its probabilities differ by {difference:.2g} from "
                    f"PyTorch's, more than {_TOLERANCE:g}. Try other versions of {_PACKAGES}"
                )
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from error
    say(f"{out}: {len(paths)} folds, largest difference to PyTorch {difference:.2g}")
    return 0


def last_size(config: Config) -> int:
    """Return the side of the last stage's images, in pixels."""
    return config.stages(config.lr)[-1].image_size


def export(ensemble: Ensemble, config: Config, path: Path) -> None:
    """Write a graph of the ensemble, with metadata that say how to use it."""
    size = last_size(config)
    program = torch.onnx.export(
        ensemble,
        (_noise(2, size),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        output_names=["probability"],
        verbose=False,
    )
    program.model.doc_string = f"pneumothorax segmentation, {config.model_type}"
    program.model.metadata_props.update(describe(config))
    program.save(path)


def describe(config: Config) -> dict[str, str]:
    """Return the metadata of the file: what goes in, what comes out, and where it is from."""
    size = last_size(config)
    clahe = "CLAHE (clip limit 2.0, 8x8 tiles) at the original size, then " if config.clahe else ""
    return {
        "input": f"image: uint8 [B,1,{size},{size}], grey X-rays after {clahe}resizing to "
        f"{size}x{size} (area when shrinking, bilinear when enlarging)",
        "output": f"probability: float32 [B,1,{size},{size}], of a pneumothorax at each pixel",
        "model_type": config.model_type,
        "run_name": str(config.run_name),
        "folds": ",".join(map(str, config.fold_numbers())),
        "image_size": str(size),
        "clahe": str(config.clahe).lower(),
    }


def largest_difference(ensemble: Ensemble, path: Path, size: int) -> float:
    """Return how far onnxruntime's probabilities are from PyTorch's, for a batch of 1 and of 3."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for count in (1, 3):
        image = _noise(count, size)
        (probability,) = session.run(None, {"image": image.numpy()})
        differences.append((torch.from_numpy(probability) - ensemble(image)).abs().max())
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


def _check_fits(ensemble: Ensemble) -> None:
    size = sum(value.nbytes for value in ensemble.state_dict().values())
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
