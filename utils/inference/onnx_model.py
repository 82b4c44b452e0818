"""An exported network, run by onnxruntime on the CPU, without torch."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError, one_line
from utils.inference.maps import Batch, Item, LevelMaps
from utils.inference.runs import View
from utils.limits import check_is_file
from utils.parallel import usable_cores
from utils.postprocessing.maps.arrays import resize_probability, to_levels
from utils.postprocessing.rule import PostProcess, parse_rule

_EXPORT = "python -m models.export --run RUN"


class OnnxModel:
    """A file that python -m models.export wrote.

    Args:
        path: the file.

    Attributes:
        path: the file.
        view: how to preprocess images.
        name: that of the run.
        outputs: names of the outputs: probability, and gate and presence if it has them.
        bits: bits of the 16-bit images that the networks were trained on; None if they had 8.
        rule_tta: the test-time augmentation that the rule was chosen with.

    Raises:
        InputError: onnxruntime or the file is missing, or the file cannot be used.
    """

    def __init__(self, path: Path):
        self.path = path
        self._session = _open_session(path)
        self._about = self._session.get_modelmeta().custom_metadata_map
        self.outputs = [output.name for output in self._session.get_outputs()]
        try:
            size, clahe = int(self._about["image_size"]), self._about["clahe"]
            (image,) = self._session.get_inputs()
            fits = image.name == "image" and image.shape[1:] == [1, size, size]
            if not fits or clahe not in ("true", "false") or self.outputs[0] != "probability":
                raise ValueError("its input and outputs are others")
            self.view = View(size, clahe == "true")
            self.bits = int(self._about["bits"]) if self._about.get("bits") else None
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path}: is an ONNX file, but its metadata are not those of an exported run "
                f"({one_line(error)}); --model takes a file that {_EXPORT} wrote"
            ) from error
        self.name = self._about.get("run_name", path.name)
        self.rule_tta = self._about.get("rule_tta", "none")

    @property
    def has_rule(self) -> bool:
        """Whether the file holds the rule that its training chose."""
        return "rule" in self._about

    def rule(self) -> PostProcess:
        """Return the rule that the training of the networks chose.

        Raises:
            InputError: the file holds none, or a damaged one.
        """
        if not self.has_rule:
            raise InputError(
                f"{self.path}: holds no thresholds, as it was exported before the run had any or by"
                f" an older version; export it again with {_EXPORT}, or give --threshold and "
                "--min_area"
            )
        try:
            return parse_rule(json.loads(self._about["rule"]), self.path)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path}: its thresholds are damaged ({error!r})") from error

    def predict(self, batch: Batch[Item], mirror: bool) -> Iterator[tuple[Item, LevelMaps]]:
        """Predict a batch; yield each image with its maps at the original size, one at a time.

        Args:
            batch: images for `view`.
            mirror: average with the prediction of the image flipped left to right.
        """
        (images,) = batch.images
        maps = self._run(images)
        if mirror:
            flipped = self._run(np.ascontiguousarray(images[..., ::-1]))
            for name, values in maps.items():
                other = flipped[name] if values.ndim == 1 else flipped[name][..., ::-1]
                maps[name] = (values + other) / 2
        for index, (item, size) in enumerate(zip(batch.items, batch.sizes, strict=True)):
            yield item, _full_size({name: values[index] for name, values in maps.items()}, size)

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        arrays = self._session.run(self.outputs, {"image": images})
        return dict(zip(self.outputs, arrays, strict=True))


def _full_size(maps: dict[str, np.ndarray], size: tuple[int, int]) -> LevelMaps:
    full = {
        name: resize_probability(maps[name][0], *size)
        for name in ("probability", "gate")
        if name in maps
    }
    probability, gate = full["probability"], full.get("gate")
    maximum = float(probability.max())
    return LevelMaps(
        to_levels(probability),
        None if gate is None else to_levels(gate),
        maximum,
        maximum if gate is None else float(gate.max()),
        float(maps["presence"]) if "presence" in maps else None,
    )


def _open_session(path: Path) -> Any:
    check_is_file(path, "exported network")
    if importlib.util.find_spec("onnxruntime") is None:
        raise InputError("--model needs onnxruntime; run pip install -r requirements-predict.txt")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 4  # what is wrong is raised, too
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise InputError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot read it as ONNX "
            f"({one_line(error)}); --model takes a file that {_EXPORT} wrote. If another version "
            "wrote it, install a newer onnxruntime"
        ) from error
