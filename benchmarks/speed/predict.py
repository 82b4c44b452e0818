"""Speed of prediction: against the original's one image at a time in float32; without torch."""

from functools import partial
from pathlib import Path

from lightning_fabric import Fabric

from benchmarks.speed import original
from benchmarks.speed.compare import Ratio, in_turns
from benchmarks.speed.data import Data
from datasets.sources.base import Sample
from models.build import build_model
from utils.commands.export import Graph, export
from utils.commands.predict_onnx import load_batches
from utils.config.settings import Config
from utils.distributed import launch
from utils.inference.ensemble import Blend, Ensemble
from utils.inference.images import ImageFiles, predict_files
from utils.inference.loop import open_loader, predict_images
from utils.inference.onnx_model import OnnxModel
from utils.inference.pictures import Pictures
from utils.inference.runs import View
from utils.inference.submission import InputImage
from utils.postprocessing.rule import PostProcess

_SIZE = 512
_RULE = PostProcess(threshold=0.5, min_area=0, top_threshold=0.5)
_BATCH = 4
_CPU_IMAGES, _GPU_IMAGES = {512: 24, 1024: 8}, 400


def measure(data: Data, workers: int, size: int = _SIZE, count: int | None = None) -> Ratio:
    """Compare images per second, from file to run-length text, with a ResNet34 U-Net.

    The network is untrained and predicts no mask, which spares the baseline its loop over pixels.

    Args:
        data: the X-rays.
        workers: data loading processes.
        size: side of the network's input in pixels.
        count: images per timed call; None chooses by the device.
    """
    fabric = launch("auto", 1, 1, "auto")
    if count is None:
        count = _CPU_IMAGES[size] if fabric.device.type == "cpu" else _GPU_IMAGES
    samples = (list(data.samples.values()) * count)[:count]
    networks = [build_model("unet_resnet34", pretrained=False) for _ in range(2)]
    plain = networks[1].to(fabric.device).eval()
    ours = partial(_predict, fabric, Ensemble(fabric, networks[:1]), size, samples, workers)
    baseline = partial(original.predict, plain, samples, size, fabric.device)
    return in_turns(f"predict_{size}", ours, baseline, "images/s")


def measure_onnx(data: Data, workers: int) -> Ratio:
    """Compare the same network, exported and run by onnxruntime, with predict.py on the CPU."""
    fabric, path = launch("cpu", 1, 1, "auto"), data.folder / "model.onnx"
    count = _CPU_IMAGES[_SIZE]
    samples = (list(data.samples.values()) * count)[:count]
    networks = [build_model("unet_resnet34", pretrained=False)]
    exact = Ensemble(launch("cpu", 1, 1, "32-true"), networks)
    config = Config(image_size_stage2=_SIZE)
    export(Graph(exact, config), config, path, {})
    baseline = partial(_predict, fabric, Ensemble(fabric, networks), _SIZE, samples, workers)
    return in_turns("predict_onnx", partial(_predict_onnx, path, samples), baseline, "images/s")


def _predict(
    fabric: Fabric, ensemble: Ensemble, size: int, samples: list[Sample], workers: int
) -> int:
    blend = Blend([ensemble], [View(size, True)], [1.0])
    loader = open_loader(ImageFiles(_inputs(samples), blend.views, False), _BATCH, workers)
    with Pictures(None, None, _RULE.threshold, "benchmark", True) as pictures:
        predict_images(fabric, blend, loader, _RULE, pictures, False, False)
    return len(samples)


def _predict_onnx(path: Path, samples: list[Sample]) -> int:
    model = OnnxModel(path)
    files = ImageFiles(_inputs(samples), [model.view], False)
    predict = partial(model.predict, mirror=False)
    with Pictures(None, None, _RULE.threshold, "benchmark", True) as pictures:
        batches = load_batches(files, 1)
        predict_files(predict, batches, len(files), _RULE, pictures, False, False)
    return len(samples)


def _inputs(samples: list[Sample]) -> list[InputImage]:
    return [InputImage(sample.id, sample.image) for sample in samples]
