"""The benchmarks: both sides compute the same, and the table is correct. Speed is not tested."""

import json

import cv2
import numpy as np
import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks.models import multiply_adds
from benchmarks.speed import original
from benchmarks.speed.compare import in_turns
from benchmarks.speed.loader import open_stage
from benchmarks.speed.step import count_operations
from datasets.formats.rle import encode
from datasets.sources.base import Sample
from models.build import build_model
from tests.helpers.dicoms import picture, write_jpeg_dicom


@pytest.fixture(scope="module")
def dicoms(tmp_path_factory):
    """Three DICOMs and the csv of their masks."""
    root = tmp_path_factory.mktemp("dicoms")
    lines = ["ImageId,EncodedPixels"]
    for i in range(3):
        write_jpeg_dicom(root / f"{i}.dcm", picture(64, 48, seed=i), uid=f"1.2.{i}")
        lines.append(f"1.2.{i},{'-1' if i == 0 else '700 20 30 20 44 5'}")
    (root / "masks.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_baseline_encodes_like_ours():
    rng = np.random.default_rng(0)
    for share in (0, 0.1, 0.9, 1):
        mask = (rng.random((17, 13)) < share).astype(np.uint8)
        assert original.encode(mask) == encode(mask)


def test_the_original_loads_normalised_float_images(tmp_path):
    cv2.imwrite(str(tmp_path / "image.jpg"), picture(60, 50))
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((60, 50), 255, np.uint8))
    sample = Sample("image", tmp_path / "image.jpg", tmp_path / "mask.png")
    image, mask = original.OriginalImages([sample], 32)[0]
    assert (image.dtype, image.shape, mask.shape) == (torch.float32, (3, 32, 32), (1, 32, 32))
    assert image.min() < -0.5
    assert image.max() > 0.5
    assert (mask == 1).all()


def test_both_sides_are_timed_alternately():
    turns = []

    def ours():
        turns.append("ours")
        return 3

    def plain():
        turns.append("plain")
        return 1

    result = in_turns("x", ours, plain, "images/s", 2)
    assert turns == ["ours", "plain"] * 2
    assert result.ratio == result.ours / result.baseline
    assert result.as_dict() == {
        "ours": result.ours,
        "baseline": result.baseline,
        "unit": "images/s",
        "ratio": result.ratio,
    }


def test_a_table_and_a_file_are_written(dicoms, tmp_path, capsys):
    names = "rle_encode,threshold_search,prepare"
    flags = ["--dicoms", dicoms, "--rle", dicoms / "masks.csv", "--json", tmp_path / "b.json"]
    assert benchmarks.main([*map(str, flags), "--only", names]) == 0
    content = json.loads((tmp_path / "b.json").read_text())
    assert list(content) == names.split(",")
    table = capsys.readouterr().out
    for name, row in content.items():
        assert row.keys() == {"ours", "baseline", "unit", "ratio"}
        assert row["ratio"] == pytest.approx(row["ours"] / row["baseline"])
        assert name in table


def test_the_error_for_an_unknown_name_lists_the_known_ones(capsys):
    assert benchmarks.main(["--only", "step_256"]) == 2
    message = capsys.readouterr().err
    assert "step_256" in message
    for name in (
        "loader_512",
        "loader_1024",
        "step_512",
        "step_1024",
        "predict_512",
        "predict_1024",
    ):
        assert name in message


def test_our_side_loads_augmented_batches_from_a_cache(dicoms, tmp_path):
    with benchmarks.open_data(dicoms, dicoms / "masks.csv", 3) as data:
        stage = open_stage(data, 32, 3, workers=0)
        views = []
        for epoch in range(2):
            stage.batches.set_epoch(epoch)
            views += [image for image, _ in stage.train]
        assert (data.folder / "cache").is_dir()
    assert [view.shape for view in views] == [(3, 1, 32, 32)] * 2
    assert not torch.equal(views[0].sort(0).values, views[1].sort(0).values)


def test_operations_are_those_of_a_forward_and_backward_pass_alone():
    forward = 2 * multiply_adds(build_model("unet_resnet18", False), torch.zeros(1, 3, 128, 128))
    # The backward pass takes twice as many, but for the gradient of the image.
    assert 2.8 * forward < count_operations("unet_resnet18", 128) < 3 * forward
