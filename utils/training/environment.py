"""What a run was trained with: versions, hardware and the state of the code."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

_PACKAGES = (
    "torch",
    "torchvision",
    "lightning-fabric",
    "segmentation-models-pytorch",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "scikit-learn",
    "pydicom",
)


def describe_environment() -> dict:
    """Return library versions, devices, and git's commit and whether the tree differs from it."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
    }


def _git(*words: str) -> str | None:
    """Return what git prints, or None outside a checkout or without git."""
    try:
        folder = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
