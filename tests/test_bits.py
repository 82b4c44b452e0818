"""The depth of 16-bit images, from prepare through a training to a prediction."""

import json

import cv2
import numpy as np
import pytest

import evaluate
import main
import predict
import solver
from datasets import check, prepare
from tests.datasets.formats.test_depth import values_of
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import SETTINGS, TinyNet, as_flags, build_tiny, write_dataset, write_run
from utils.inference import ensemble
from utils.training.start import plan

DARK, BRIGHT = values_of(8, shape=(72, 60)), values_of(12, shape=(72, 60))


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    monkeypatch.setattr(TinyNet, "size_step", 32, raising=False)
    for module in (plan, solver, ensemble):
        monkeypatch.setattr(module, "build_model", build_tiny)


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path / "data", count=8)


@pytest.fixture
def run(data, tmp_path):
    """A finished run without a record."""
    return write_run(tmp_path / "runs/unet_resnet34/a", data, seed=1)


@pytest.fixture
def deep(tmp_path):
    """Two 16-bit images: one uses 8 bits, the other one 12."""
    return write_folder(tmp_path / "deep", {"dark": DARK, "bright": BRIGHT})


def write_folder(folder, images):
    folder.mkdir()
    for name, pixels in images.items():
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
    return folder


def record(folder, bits):
    (folder / "train_bits.json").write_text(json.dumps({"bits": bits}))


def train(data, tmp_path, *words):
    settings = SETTINGS | {"dataset_root": data, "model_path": tmp_path / "runs", "run_name": "b"}
    return main.main([*as_flags(settings), *words])


def maps(run, images, out, *words):
    """Predict, and return the probability maps and the overlays by id."""
    flags = ["--run", run, "--images", images, "--out", out / "s.csv", "--num_workers", 0]
    flags += ["--threshold", 0.5, "--min_area", 0, "--probabilities", out / "maps"]
    flags += ["--overlays", out / "overlays", "--precision", "32-true", "--accelerator", "cpu"]
    code = predict.main([str(word) for word in (*flags, *words)])
    if code:
        assert not out.exists()
        return code
    return {str(p.relative_to(out)): read_pixels(p) for p in out.rglob("*.png")}


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def shifted(tmp_path, shift):
    """Write the 8-bit images that the 16-bit ones have to be read as."""
    images = {
        name: (v >> shift).astype(np.uint8) for name, v in (("dark", DARK), ("bright", BRIGHT))
    }
    return write_folder(tmp_path / f"shifted{shift}", images)


def test_a_run_reads_images_to_predict_as_its_own_were_prepared(deep, tmp_path, capsys):
    """Only the dark image is predicted: alone it would be taken for one of 8 bits."""
    images = {f"{i}": BRIGHT // (i + 1) for i in range(8)}
    originals = write_folder(tmp_path / "in", images)
    rows = [f"{i},{'100 900' if i % 2 else -1}" for i in range(8)]
    (tmp_path / "rle.csv").write_text("\n".join(["ImageId,EncodedPixels", *rows]))
    words = ["--images", originals, "--rle", tmp_path / "rle.csv", "--out", tmp_path / "data"]
    assert prepare.main([*map(str, words), "--num_workers", "0"]) == 0
    assert train(tmp_path / "data", tmp_path) == 0
    run = tmp_path / "runs/unet_resnet34/b"
    assert json.loads((run / "train_bits.json").read_text()) == {"bits": 12}
    expected = maps(run, shifted(tmp_path, 4) / "dark.png", tmp_path / "expected")
    capsys.readouterr()
    assert same(maps(run, deep / "dark.png", tmp_path / "out"), expected)
    assert "16-bit images: 1, read as 12 bits (as in training" in capsys.readouterr().out


def test_a_run_without_a_record_reads_all_images_with_one_depth(run, deep, tmp_path, capsys):
    found = maps(run, deep, tmp_path / "out")
    assert "16-bit images: 2, largest value 4,095, read as 12 bits" in capsys.readouterr().out
    assert same(found, maps(run, shifted(tmp_path, 4), tmp_path / "expected"))
    assert "bits" not in capsys.readouterr().out
    assert not same(found, maps(run, shifted(tmp_path, 8), tmp_path / "upper"))


def test_bits_overrides_the_record(run, deep, tmp_path, capsys):
    record(run, 12)
    found = maps(run, deep, tmp_path / "out", "--bits", 16)
    assert "16-bit images: 2, read as 16 bits (--bits)" in capsys.readouterr().out
    assert same(found, maps(run, shifted(tmp_path, 8), tmp_path / "expected"))


def test_values_above_the_recorded_depth_are_refused_by_name(run, deep, tmp_path, capsys):
    record(run, 10)
    assert maps(run, deep, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "bright.png: has the value 4,095, which 10 bits cannot hold" in message
    assert "dark.png" not in message
    found = maps(run, deep, tmp_path / "rest", "--skip_bad", "true")
    assert same(found, maps(run, shifted(tmp_path, 2) / "dark.png", tmp_path / "expected"))


def test_a_blend_of_runs_with_different_depths_needs_bits(run, data, deep, tmp_path, capsys):
    other = write_run(run.parent / "b", data, seed=2)
    record(run, 12)
    assert maps(run, deep, tmp_path / "one", "--run", other) != 2
    assert "read as 12 bits (as in training" in capsys.readouterr().out
    record(other, 16)
    assert maps(run, deep, tmp_path / "out", "--run", other) == 2
    assert "different depths" in (message := capsys.readouterr().err)
    assert "--bits" in message
    assert maps(run, deep, tmp_path / "given", "--run", other, "--bits", 12) != 2


def test_a_run_is_not_resumed_on_images_of_another_depth(data, tmp_path, capsys):
    record(data, 12)
    assert train(data, tmp_path) == 0
    assert train(data, tmp_path, "--resume", "true") == 0
    capsys.readouterr()
    for change in (lambda: record(data, 10), (data / "train_bits.json").unlink):
        change()
        assert train(data, tmp_path, "--resume", "true") == 2
        assert "was started on images read as 12 bits" in capsys.readouterr().err


def test_a_run_on_8_bit_images_has_no_record(data, tmp_path):
    assert train(data, tmp_path) == 0
    assert not (tmp_path / "runs/unet_resnet34/b/train_bits.json").exists()


@pytest.mark.parametrize("cache", ["true", "false"])
def test_16_bit_images_in_a_training_folder_are_refused_by_name(data, tmp_path, capsys, cache):
    cv2.imwrite(str(data / "train_images/image03.png"), BRIGHT)
    if cache == "true":
        assert check.main(["--dataset_root", str(data)]) == 1
        assert "image03.png: has 16-bit pixels" in capsys.readouterr().out
    assert train(data, tmp_path, "--cache", cache) == 2
    message = capsys.readouterr().err
    assert "image03.png: has 16-bit pixels" in message
    assert "python -m datasets.prepare" in message


def test_the_worst_images_are_drawn_with_one_depth(deep, tmp_path):
    sheets = []
    for name, images in (("deep", deep), ("shifted", shifted(tmp_path, 4))):
        csv = tmp_path / "masks.csv"
        csv.write_text("ImageId,EncodedPixels\ndark,0 30\nbright,5 9\n")
        flags = ["--submission", csv, "--truth", csv, "--images", images]
        assert evaluate.main([*map(str, flags), "--worst", str(tmp_path / f"{name}.png")]) == 0
        sheets.append(read_pixels(tmp_path / f"{name}.png"))
    assert np.array_equal(sheets[0], sheets[1])
