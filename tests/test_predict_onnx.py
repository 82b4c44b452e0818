"""predict.py --model: an exported network predicts what its run predicts, without torch."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import predict
from datasets.formats.rle import decode
from models.export import main as export
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import build_tiny, write_dataset, write_run
from utils.inference import ensemble
from utils.postprocessing.histograms import lowest_above
from utils.postprocessing.maps import arrays, tensors

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
REPOSITORY = Path(__file__).parent.parent
RULE: dict[str, Any] = {
    "threshold": 0.5,
    "min_area": 3,
    "top_threshold": 0.6,
    "presence_threshold": 0.2,
    "min_component_area": 2,
    "min_component_mean": 0.1,
}
WITHOUT_TORCH = """
import sys
for name in ("torch", "matplotlib", "pandas", "sklearn", "albumentations", "lightning_fabric"):
    sys.modules[name] = None
import predict
sys.exit(predict.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (20, 51), (1, 1), (511, 700)])
def test_maps_are_resized_and_cut_to_levels_as_torch_does(size):
    probability = np.random.default_rng(0).random((48, 48), dtype=np.float32)
    ours = arrays.resize_probability(probability, *size)
    theirs = tensors.resize_probability(torch.from_numpy(probability), *size).numpy()
    assert ours.dtype == np.float32
    assert ours.shape == size
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    levels = tensors.to_levels(torch.from_numpy(ours)).numpy()
    np.testing.assert_array_equal(arrays.to_levels(ours), levels)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model", "x.onnx", "--run", "y"], "--run"),
        (["--model", "x.onnx", "--precision", "32-true"], "--precision"),
        (["--model", "x.onnx", "--folds", "0", "--devices", "2"], "--folds, --devices"),
        ([], "--model FILE.onnx"),
    ],
)
def test_flags_without_effect_are_refused(words, named, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.main([*words, "--images", "."])
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A data set, a run with stage 3, presence head and rule, and its export."""
    root = tmp_path_factory.mktemp("onnx")
    data = write_dataset(root / "data", count=6)
    run = write_run(root / "run", data, 3, presence_weight=0.1, epoch_stage3=1)
    (run / "threshold.json").write_text(json.dumps(RULE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "build_model", build_tiny)
        assert export(["--run", str(run)]) == 0
    return data / "train_images", run


def read_masks(path):
    with open(path, newline="") as file:
        return {row["ImageId"]: row["EncodedPixels"] for row in csv.DictReader(file)}


def read_scores(path):
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=1)


@pytest.mark.slow
@pytest.mark.parametrize("tta", ["none", "hflip"])
def test_the_output_is_that_of_the_run(exported, tta, tmp_path, monkeypatch, capsys):
    images, run = exported
    monkeypatch.setattr(ensemble, "build_model", build_tiny)
    for name, source in (
        ("run", ["--run", str(run), "--precision", "32-true", "--accelerator", "cpu"]),
        ("model", ["--model", str(run / "model.onnx")]),
    ):
        flags = ["--out", tmp_path / name / "out.csv", "--probabilities", tmp_path / name / "maps"]
        words = [*source, "--images", images, *flags, "--overlays", tmp_path / name / "overlays"]
        assert predict.main([*map(str, words), "--tta", tta]) == 0
    said = capsys.readouterr().out
    assert said.count("were chosen with --tta none") == (2 if tta == "hflip" else 0)
    theirs, ours = (read_masks(tmp_path / name / "out.csv") for name in ("run", "model"))
    assert list(ours) == list(theirs)
    assert any(text != "-1" for text in ours.values())
    for name, text in ours.items():
        maps = [read_pixels(tmp_path / n / "maps" / f"{name}.png") for n in ("run", "model")]
        assert np.abs(maps[0].astype(int) - maps[1]).max() <= 1
        if text != theirs[name]:
            masks = [decode(rle, *maps[0].shape) for rle in (text, theirs[name])]
            differ = np.abs(maps[0][np.not_equal(*masks)] / 255 - lowest_above(RULE["threshold"]))
            assert differ.max() <= 1.5 / 255
    first, second = (read_scores(tmp_path / name / "scores.csv") for name in ("run", "model"))
    np.testing.assert_allclose(first, second, atol=1e-3)
    assert len(list((tmp_path / "model" / "overlays").iterdir())) == 1 + len(ours)


@pytest.mark.slow
def test_nothing_but_the_small_requirements_is_imported(exported, tmp_path):
    images, run = exported
    words = ["--model", run / "model.onnx", "--images", images, "--out", tmp_path / "out.csv"]
    subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words, "--overlays", tmp_path / "overlays"],
        cwd=REPOSITORY,
        check=True,
    )
    assert len(read_masks(tmp_path / "out.csv")) == 6


@pytest.mark.slow
def test_bad_files_get_one_line(exported, tmp_path, capsys):
    images, run = exported
    bad = tmp_path / "bad.onnx"

    def refusal(*flags):
        out = ["--out", str(tmp_path / "out.csv")]
        assert predict.main(["--model", str(bad), "--images", str(images), *out, *flags]) == 2
        message = capsys.readouterr().err.strip()
        assert len(message.splitlines()) == 1
        assert str(bad) in message
        return message

    assert "does not exist; give a file that python -m models.export wrote" in refusal()
    bad.write_bytes(b"not a graph")
    assert "cannot read it as ONNX" in refusal()
    model = onnx.load(run / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}

    def write(opset=None, **changed):
        changes = {k: v for k, v in (metadata | changed).items() if v is not None}
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        onnx.helper.set_model_props(copy, changes)
        if opset:
            copy.opset_import[0].version = opset
        onnx.save(copy, bad)

    write(opset=99)
    assert "cannot read it as ONNX" in refusal()
    write(image_size=None)
    assert "metadata are not those of an exported run" in refusal()
    write(image_size="96")
    assert "its input and outputs are others" in refusal()
    write(rule="{}")
    assert "thresholds are damaged" in refusal()
    write(rule=None)
    assert "holds no thresholds" in refusal()
    flags = ["--threshold", "0.5", "--min_area", "0", "--out", str(tmp_path / "out.csv")]
    assert predict.main(["--model", str(bad), "--images", str(images), *flags]) == 0


@pytest.mark.slow
def test_scales_are_refused_for_a_graph_of_one_size(exported, tmp_path, capsys):
    images, run = exported
    words = ["--model", run / "model.onnx", "--images", images, "--out", tmp_path / "out.csv"]
    assert predict.main([*map(str, words), "--tta", "hflip,scales"]) == 2
    assert "an exported network takes images of one size" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
