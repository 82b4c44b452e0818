"""Speed of prediction, against the original's one image at a time in float32."""

from functools import partial

from benchmarks.speed import original
from benchmarks.speed.compare import Ratio, in_turns
from benchmarks.speed.data import Data
from models.build import build_model
from utils.distributed import launch
from utils.inference.ensemble import Blend, Ensemble
from utils.inference.images import ImageFiles
from utils.inference.loop import open_loader, predict_images
from utils.inference.pictures import Pictures
from utils.inference.runs import View
from utils.inference.submission import InputImage
from utils.postprocessing.rule import PostProcess

_SIZE = 512
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
    sources = [InputImage(sample.id, sample.image) for sample in samples]
    networks = [build_model("unet_resnet34", pretrained=False) for _ in range(2)]
    blend = Blend([Ensemble(fabric, networks[:1])], [View(size, True)], [1.0])
    plain = networks[1].to(fabric.device).eval()
    rule = PostProcess(threshold=0.5, min_area=0, top_threshold=0.5)

    def ours() -> int:
        loader = open_loader(ImageFiles(sources, blend.views, False), _BATCH, workers)
        with Pictures(None, None, rule.threshold, "benchmark", True) as pictures:
            predict_images(fabric, blend, loader, rule, pictures, False, False)
        return count

    baseline = partial(original.predict, plain, samples, size, fabric.device)
    return in_turns(f"predict_{size}", ours, baseline, "images/s")
