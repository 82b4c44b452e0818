"""Help, a wrong flag and a missing folder are answered before anything slow is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layout import COMMANDS, FLOORS

REPOSITORY = Path(__file__).parent.parent
SLOW = (
    "albumentations",
    "lightning_fabric",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "scipy",
    "segmentation_models_pytorch",
    "sklearn",
    "tensorboard",
    "timm",
    "torch",
    "torchvision",
)
"""Packages that take from a quarter of a second to several seconds to import."""
HELP = [(name, ["--help"]) for name in (*FLOORS[0], *COMMANDS)]
REFUSED = [
    ("main", ["--epochs", "3"]),
    ("main", ["--dataset_root", "missing"]),
    ("train_sfold", ["--run_name", "missing", "--resume", "true"]),
    ("train_sfold", ["--init_from", "missing"]),
    ("predict", ["--run", "missing", "--images", "."]),
    ("evaluate", ["--submission", "missing", "--truth", "missing"]),
    ("utils.blend", ["--run", "missing", "--run", "other"]),
    ("utils.report.__main__", ["--run", "missing"]),
    ("datasets.check", ["--dataset_root", "missing"]),
    ("datasets.preview", ["--dataset_root", "missing", "--out", "sheet.png"]),
    ("models.export", ["--run", "missing"]),
    ("models.adopt", ["--checkpoint", "missing.pth", "--folds", "0", "--run_name", "old"]),
]
SCRIPT = """
import contextlib, importlib, io, json, sys
for name, words in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            code = importlib.import_module(name).main(words)
        except SystemExit as stop:
            code = stop.code
    slow = sorted(set(json.loads(sys.argv[2])) & set(sys.modules))
    print(json.dumps([name, words, code, slow, told.getvalue()]))
"""


@pytest.mark.parametrize(("calls", "code"), [(HELP, 0), (REFUSED, 2)], ids=["help", "refused"])
def test_a_command_answers_before_it_imports_what_is_slow(calls, code, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls), json.dumps(SLOW)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        check=True,
    )
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(calls)
    for name, words, returned, imported, told in answers:
        assert (returned, imported) == (code, []), f"{name} {' '.join(words)}: {told}"
        assert "Traceback" not in told
        assert code == 0 or "missing" in told or "--epochs" in told
