"""The work of python -m models.export: trace an ensemble, write it as ONNX, compare the outputs."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from datasets.formats.depth import bits_file, read_bits
from datasets.preprocessing import preprocess
from datasets.tools.phantom import draw_chest
from models.interface import Output
from utils.config.settings import Config
from utils.config.stages import gate_stage, mask_stage
from utils.config.tta import parse_tta
from utils.console import print0
from utils.distributed import launch
from utils.errors import InputError, cause_of, check_text
from utils.files import write_output
from utils.inference.ensemble import Ensemble, open_ensemble
from utils.inference.planning import note_later_folds
from utils.inference.runs import WeightedRun, find_checkpoints, read_run_config
from utils.postprocessing.rule import load_rule, load_tta

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_TOLERANCE = 1e-3
"""Largest difference of the outputs, which are probabilities."""
_LOGIT_TOLERANCE = 0.05
"""Largest difference of a network's logits."""
_DRAWN = 1024
"""Side of the drawn X-rays in pixels before preprocessing, that of Kaggle's images."""
_MAX_BYTES = 1536 * 2**20
"""Maximum size of weights that torch exports to one file."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_run(run: Path, folds: str, out: Path | None) -> None:
    """Export the networks of a run to one ONNX file.

    Args:
        run: the run's folder.
        folds: all, one (0) or several (0,3).
        out: the file to write; None for model.onnx in the run's folder.

    Raises:
        InputError: a package or checkpoint is missing, the file cannot be written, or its outputs
            differ from PyTorch's.
    """
    _check_packages()
    config = read_run_config(run, folds)
    checkpoints = find_checkpoints(run, config, "best")
    out = out or run / "model.onnx"
    check_text("the file to write", str(out))
    fabric = launch("cpu", 1, 1, "32-true")
    graph = Graph(open_ensemble(fabric, config, checkpoints), config)
    _check_fits(graph)
    try:
        with write_output(out) as temporary:
            export(graph, config, temporary, describe_rule(run))
            found = largest_differences(graph, temporary, config)
            if not (found.outputs <= _TOLERANCE and found.logits <= _LOGIT_TOLERANCE):
                raise InputError(
                    f"{out} was not written: on drawn X-rays its probabilities differ by "
                    f"{found.outputs:.2g} from PyTorch's (at most {_TOLERANCE:g} is accepted) and "
                    f"its networks' logits by {found.logits:.2g} (at most {_LOGIT_TOLERANCE:g}). "
                    f"Try other versions of {', '.join(_PACKAGES)}"
                )
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({cause_of(error)}); choose another --out"
        ) from error
    networks = len({*checkpoints.mask, *checkpoints.gate})
    print0(
        f"{out}: {', '.join(graph.outputs)} of {len(config.fold_numbers())} folds, {networks} "
        f"networks; largest difference from PyTorch {found.outputs:.2g}, of logits "
        f"{found.logits:.2g}"
    )
    note_thresholds(run, config)


def note_thresholds(run: Path, config: Config) -> None:
    """Say what to know about the thresholds in the file: missing folds, and augmentation."""
    path = run / "threshold.json"
    if path.exists():
        note_later_folds(path, [WeightedRun(run, config, 1.0)])
        _note_tta(load_tta(path))


def _note_tta(tta: str) -> None:
    """Say how to predict with the file if its thresholds were chosen with an augmentation."""
    if parse_tta(tta).scales:
        print0(
            f"warning: the thresholds were chosen with --tta {tta}, but the file takes images of "
            "one size: predict.py --model refuses it without --tta none or hflip, for which the "
            "thresholds are not chosen"
        )
    elif tta != "none":
        print0(
            f"note: the thresholds were chosen with --tta {tta}: predict.py --model averages over "
            "mirror images by itself, other programs have to"
        )


class Graph(nn.Module):
    """The exported part of an ensemble.

    Args:
        ensemble: returns `ProbabilityMaps`.
        config: the run's settings.

    Attributes:
        outputs: names of the outputs of the file.
        logits: names of the logits inside the file, of every network that contributes to them.
    """

    def __init__(self, ensemble: Ensemble, config: Config):
        super().__init__()
        self.ensemble = ensemble
        self.outputs = ["probability"]
        self.outputs += ["gate"] if gate_stage(config) != mask_stage(config) else []
        self.outputs += ["presence"] if config.presence_head else []
        count = masks = len(ensemble.networks)
        self._with_presence = range(masks)
        if ensemble.gate_networks is not None:  # then only they predict presence
            count += len(ensemble.gate_networks)
            self._with_presence = range(masks, count)
        self.logits = [f"logits_{i}" for i in range(count)]
        if config.presence_head:
            self.logits += [f"presence_logits_{i}" for i in self._with_presence]
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Predict a batch, [B,1,S,S] uint8 grey: the `outputs`, then the `logits`."""
        kept: list[Output] = []
        maps = self.ensemble(image, kept)
        presences = [kept[i].presence for i in self._with_presence]
        return (
            *(getattr(maps, name) for name in self.outputs),
            *(output.logits for output in kept),
            *(presence for presence in presences if presence is not None),
        )


class Differences(NamedTuple):
    """The largest differences between onnxruntime and PyTorch.

    Attributes:
        outputs: of the file's outputs, which are probabilities.
        logits: of the logits of any network.
    """

    outputs: float
    logits: float


def last_size(config: Config) -> int:
    """Return the image size of the last stage, in pixels."""
    return mask_stage(config).image_size


def export(graph: Graph, config: Config, path: Path, rule: dict[str, str]) -> None:
    """Write a graph as ONNX, with metadata that describe its input and outputs.

    The logits keep their names, but are no outputs of the file.

    Args:
        graph: the ensemble.
        config: the run's settings.
        path: the file.
        rule: further metadata, see `describe_rule`.
    """
    size = last_size(config)
    program = torch.onnx.export(
        graph,
        (torch.zeros((2, 1, size, size), dtype=torch.uint8),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        output_names=[*graph.outputs, *graph.logits],
        verbose=False,
    )
    assert program is not None, "torch returns a program with dynamo=True"
    del program.model.graph.outputs[len(graph.outputs) :]
    program.model.doc_string = f"pneumothorax segmentation, {config.model_type}"
    program.model.metadata_props.update(describe(config, graph.outputs) | rule)
    program.save(path)


def describe(config: Config, outputs: list[str]) -> dict[str, str]:
    """Return the metadata of the file: input, outputs and origin."""
    size = last_size(config)
    meanings = {
        "probability": f"float32 [B,1,{size},{size}], probability of a mask at each pixel",
        "gate": f"float32 [B,1,{size},{size}], decides whether the image has a mask",
        "presence": "float32 [B], probability of a mask anywhere",
    }
    mean, std = config.normalisation.as_text()
    clahe = "CLAHE (clip limit 2.0, 8x8 tiles) at the original size, then " if config.clahe else ""
    return {
        "input": f"image: uint8 [B,1,{size},{size}], grey X-rays after {clahe}resizing to "
        f"{size}x{size} (area when shrinking, bilinear when enlarging); the graph normalises them "
        "with input_mean and input_std",
        "output": "; ".join(f"{name}: {meanings[name]}" for name in outputs),
        "model_type": config.model_type,
        "run_name": str(config.run_name),
        "folds": ",".join(map(str, config.fold_numbers())),
        "image_size": str(size),
        "clahe": str(config.clahe).lower(),
        "input_mean": mean,
        "input_std": std,
        "tta": "none",
    }


def describe_rule(run: Path) -> dict[str, str]:
    """Return the metadata of how maps become masks: those of threshold.json, and the bits.

    Args:
        run: the run's folder; one without thresholds gives none.

    Raises:
        InputError: a file is damaged.
    """
    path, bits = run / "threshold.json", read_bits(bits_file(run))
    known = {"bits": str(bits)} if bits is not None else {}
    if not path.exists():
        return known
    return known | {"rule": json.dumps(asdict(load_rule(path))), "rule_tta": load_tta(path)}


def largest_differences(graph: Graph, path: Path, config: Config) -> Differences:
    """Run a file as it is on one image, and with its logits as outputs on a batch of three."""
    images, count = _images(config), len(graph.outputs)
    session = _open_session(str(path))
    alone = _differences(
        session.run(None, {"image": images[:1].numpy()}), graph(images[:1])[:count]
    )
    del session  # one at a time: each holds the weights
    session = _open_session(_add_outputs(path, graph.logits))
    arrays = session.run([*graph.outputs, *graph.logits], {"image": images.numpy()})
    together = _differences(arrays, graph(images))
    return Differences(
        torch.stack([*alone, *together[:count]]).max().item(),
        torch.stack(together[count:]).max().item(),
    )


def _differences(arrays: Sequence[np.ndarray], tensors: Sequence[Tensor]) -> list[Tensor]:
    return [
        (torch.from_numpy(array) - tensor).abs().max()
        for array, tensor in zip(arrays, tensors, strict=True)
    ]


def _open_session(model: str | bytes) -> "InferenceSession":
    import onnxruntime

    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _add_outputs(path: Path, names: list[str]) -> bytes:
    """Return an ONNX file with further values of its graph as outputs."""
    import onnx

    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model.SerializeToString()


def _images(config: Config) -> Tensor:
    """Return an X-ray with a pneumothorax, one without, and noise, [3,1,S,S] uint8."""
    rng, size = np.random.default_rng(0), last_size(config)
    drawn = [draw_chest(rng, _DRAWN, positive)[0] for positive in (True, False)]
    prepared = [preprocess(grey, size, config.clahe) for grey in drawn]
    noise = rng.integers(0, 256, (size, size), dtype=np.uint8)
    return torch.from_numpy(np.stack([*prepared, noise])[:, None])


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
