"""The command line of prepare on 16-bit images, compared with shifting the arrays they hold."""

import json

import cv2
import numpy as np
import pytest

from datasets.prepare import main
from datasets.tools import originals
from tests.datasets.formats.test_depth import values_of
from tests.helpers.dicoms import picture, write_dicom, write_jpeg_dicom
from tests.helpers.image_files import read_pixels


@pytest.fixture
def prepare(tmp_path, capsys):
    """Write images to a folder of the given name, prepare it, and return what was printed."""

    def run(folder, images, *flags, code=0):
        for name, pixels in images.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            if name.endswith(".dcm"):
                write_dicom(tmp_path / folder / name, pixels, name.removesuffix(".dcm"), 16)
            else:
                cv2.imwrite(str(tmp_path / folder / name), pixels)
        args = ["--images", tmp_path / folder, "--out", tmp_path / "out", "--num_workers", 0]
        if "--split" not in flags:
            rows = [f"{name.rsplit('.', 1)[0]},-1" for name in images]
            (tmp_path / "rle.csv").write_text("\n".join(["ImageId,EncodedPixels", *rows]))
            args += ["--rle", tmp_path / "rle.csv"]
        result = main([str(arg) for arg in (*args, *flags)])
        text = "".join(capsys.readouterr())
        assert result == code, text
        return text

    return run


def written(tmp_path, split="train"):
    return {p.stem: read_pixels(p) for p in (tmp_path / "out" / f"{split}_images").iterdir()}


def record(tmp_path, split="train"):
    return json.loads((tmp_path / "out" / f"{split}_bits.json").read_text())


def files(tmp_path):
    return {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_all_images_of_a_folder_are_read_with_the_depth_of_the_largest_value(prepare, tmp_path):
    images = {"dark.png": values_of(8), "bright.png": values_of(12, 3071), "8.png": picture()}
    text = prepare("in", images)
    assert "16-bit images: 2, largest value 3,071, read as 12 bits" in text
    found = written(tmp_path)
    assert np.array_equal(found["dark"], images["dark.png"] >> 4)
    assert np.array_equal(found["bright"], images["bright.png"] >> 4)
    assert np.array_equal(found["8"], picture())
    assert record(tmp_path) == {"bits": 12}


def test_a_dicom_of_16_bits_counts_and_is_read_with_the_same_depth(prepare, tmp_path):
    images = {"a.png": values_of(8), "1.2.dcm": values_of(10)}
    assert "16-bit images: 2, largest value 1,023, read as 10 bits" in prepare("in", images)
    found = written(tmp_path)
    assert np.array_equal(found["a"], images["a.png"] >> 2)
    assert np.array_equal(found["1.2"], np.rint(images["1.2.dcm"] / 1023 * 255))


def test_several_processes_find_the_same_depth(prepare, tmp_path):
    images = {f"{i:03}.png": values_of(8, i, (8, 8)) for i in range(130)}
    images |= {"129.png": values_of(12, 2000, (8, 8))}
    text = prepare("in", images, "--num_workers", 2)
    assert "16-bit images: 130, largest value 2,000, read as 12 bits" in text
    found = written(tmp_path)
    assert all(np.array_equal(found[n.split(".")[0]], v >> 4) for n, v in images.items())


def test_bits_overrides_the_depth_and_larger_values_are_refused_by_name(prepare, tmp_path):
    images = {"small.png": values_of(10), "large.png": values_of(12)}
    text = prepare("in", images, "--bits", 10, code=1)
    assert "16-bit images: 2, largest value 4,095, read as 10 bits" in text
    assert "large.png: has the value 4,095, which 10 bits cannot hold" in text
    assert written(tmp_path).keys() == {"small"}
    assert np.array_equal(written(tmp_path)["small"], images["small.png"] >> 2)
    assert record(tmp_path) == {"bits": 10}


@pytest.mark.parametrize("bits", ["9", "0", "twelve"])
def test_only_the_known_depths_can_be_given(prepare, bits):
    with pytest.raises(SystemExit):
        prepare("in", {"a.png": values_of(8)}, "--bits", bits)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_second_folder_of_another_depth_is_refused_for_the_same_out(prepare, tmp_path, split):
    prepare("in", {"a.png": values_of(12)})
    before, second = files(tmp_path), {"b.png": values_of(10)}
    flags = ["--split", split] if split == "test" else []
    text = prepare("second", second, *flags, code=2)
    assert "train_bits.json: this data set has images read as 12 bits" in text
    assert "read as 10" in text
    assert "--bits 12" in text
    assert files(tmp_path) == before
    prepare("second", second, *flags, "--bits", 12)
    assert np.array_equal(written(tmp_path, split)["b"], second["b.png"] >> 4)
    assert record(tmp_path, split) == {"bits": 12}


def test_the_depth_of_prepared_images_cannot_be_changed_by_a_second_run(prepare, tmp_path):
    images = {"a.png": values_of(12)}
    prepare("in", images)
    before = files(tmp_path)
    assert "another --out with --bits 16" in prepare("in", images, "--bits", 16, code=2)
    assert files(tmp_path) == before
    assert "0 images written, 1 up to date" in prepare("in", images)


def test_images_of_a_version_that_kept_no_record_are_converted_again(prepare, tmp_path):
    images = {"a.png": values_of(12), "8.png": picture()}
    (tmp_path / "out/train_images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "out/train_images/a.png"), images["a.png"] >> 8)
    prepare("in", images)
    assert np.array_equal(written(tmp_path)["a"], images["a.png"] >> 4)


def test_without_16_bit_images_nothing_is_decoded_printed_or_recorded(
    prepare, tmp_path, monkeypatch
):
    monkeypatch.setattr(originals, "largest_value", lambda *_, **__: pytest.fail("decoded"))
    (tmp_path / "in").mkdir()
    write_jpeg_dicom(tmp_path / "in" / "1.3.dcm", picture(), "1.3")
    images = {"8.png": picture(), "c.png": np.dstack([picture()] * 3)}
    text = prepare("in", images)
    assert "bits" not in text
    assert not list((tmp_path / "out").glob("*.json"))
    assert "1 unannotated" in text


def test_unusable_16_bit_images_are_refused_and_count_for_nothing(prepare, tmp_path):
    (tmp_path / "in").mkdir()
    write_dicom(tmp_path / "in" / "ct.dcm", values_of(16), "ct", 16, Modality="CT")
    text = prepare("in", {"a.png": values_of(10)}, "--split", "test", code=1)
    assert "16-bit images: 1, largest value 1,023, read as 10 bits" in text
    assert "ct.dcm: its modality is CT" in text
