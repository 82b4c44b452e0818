"""The command line of predict.py on a run that main.py trained."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import torch
from torch import nn

import main
import predict
from datasets.formats.images import read_image
from datasets.formats.rle import decode
from datasets.preprocessing import preprocess
from models.build import build_model
from models.interface import normalise
from tests.helpers.dcmqi import read_segment
from tests.helpers.dicoms import picture, write_dicom, write_jpeg_dicom
from tests.helpers.tiny import SETTINGS, as_flags, write_dataset
from utils.drawing import PANEL, TILE
from utils.postprocessing.rule import load_rule

REPOSITORY = Path(__file__).parent.parent
SIZE = 32
IDS = ["1.2.3.4", "1.2.5", "colour", "deep", "large", "plain", "small"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write images of every supported kind, in several sizes."""
    root = write_dataset(tmp_path_factory.mktemp("images"), count=7, height=72, width=60)
    pictures = [read_image(path) for path in sorted((root / "train_images").iterdir())]
    folder = root / "pictures"
    (folder / "deeper").mkdir(parents=True)
    cv2.imwrite(str(folder / "plain.png"), pictures[0])
    cv2.imwrite(str(folder / "large.jpg"), cv2.resize(pictures[1], (150, 110)))
    cv2.imwrite(str(folder / "small.png"), pictures[2][20:41, 10:41])
    cv2.imwrite(str(folder / "deeper" / "colour.png"), cv2.merge([pictures[3]] * 3))
    cv2.imwrite(str(folder / "deep.png"), pictures[4].astype(np.uint16) * 257)
    write_jpeg_dicom(folder / "a name that is not its id.dcm", pictures[5], "1.2.3.4")
    write_dicom(folder / "other.dcm", pictures[6], "1.2.5")
    return folder


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """Train a run of two folds, whose rule leaves some images empty and gives others a mask."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    data = write_dataset(tmp_path_factory.mktemp("data"), count=8)
    changes = {"image_size_stage2": SIZE, "epoch_stage1": 1, "epoch_stage2": 1, "run_name": "run"}
    folders = {"dataset_root": data, "model_path": checkpoints}
    assert main.main(as_flags(SETTINGS | changes | folders)) == 0
    folder = checkpoints / "unet_resnet34" / "run"
    for path in folder.glob("fold*/stage2_*.pth"):
        spread_probabilities(path, images)
    maps = list(maps_by_hand(folder, images).values())
    threshold = float(np.median(np.concatenate([levels.ravel() for levels in maps]))) / 255
    areas = [(levels > round(threshold * 255)).sum() for levels in maps]
    rule = {"threshold": threshold, "min_area": int(np.median(areas)), "top_threshold": threshold}
    (folder / "threshold.json").write_text(json.dumps(rule | {"pooled": {}}))
    masks = [load_rule(folder / "threshold.json").mask(levels).any() for levels in maps]
    assert {True, False} == set(masks)
    return folder


def spread_probabilities(path, images):
    """Rescale the logits of a barely trained network so that probabilities spread from 0 to 1."""
    content = torch.load(path)
    state, network = content["state_dict"], build_model("unet_resnet34", pretrained=False)
    network.load_state_dict(state)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    x = torch.cat([inputs_of(path) for path in images.rglob("*.*")])
    with torch.no_grad():
        network.train()(x)
        logits = network.eval()(x)
    state |= network.state_dict()
    state["final_conv.weight"] *= 3 / logits.std()
    state["final_conv.bias"] = (state["final_conv.bias"] - logits.mean()) * 3 / logits.std()
    # The best and the last checkpoint may be hard links to one file.
    path.unlink()
    torch.save(content | {"optimizer": {}}, path)


@pytest.fixture
def x_rays(images, tmp_path):
    """Write DICOMs with the UIDs that a segmentation needs, in several sizes, one inverted."""
    folder = tmp_path / "x_rays"
    for number, (size, photometric) in enumerate(
        [((72, 60), "MONOCHROME2"), ((40, 90), "MONOCHROME1"), ((32, 32), "MONOCHROME2")]
    ):
        pixels = cv2.resize(read_image(images / "plain.png"), size[::-1])
        write_dicom(
            folder / f"{number}.dcm",
            pixels,
            f"1.2.7.{number}",
            PhotometricInterpretation=photometric,
            PatientID=f"patient {number}",
            StudyInstanceUID=f"1.2.8.{number}",
            SeriesInstanceUID=f"1.2.9.{number}",
        )
    return folder


@pytest.fixture
def predicted(run, images, tmp_path):
    """Run the command line in `tmp_path` and return the exit code."""
    return lambda *words, run=run, inputs=(images,): call(run, inputs, tmp_path, *words)


@pytest.fixture(scope="module")
def outputs(run, images, tmp_path_factory):
    """Write all outputs at once; return their folder and the printed text."""
    folder, printed = tmp_path_factory.mktemp("outputs"), io.StringIO()
    flags = ["--overlays", folder / "new" / "overlays", "--probabilities", folder / "maps"]
    with contextlib.redirect_stdout(printed):
        assert call(run, (images,), folder, *flags) == 0
    return folder, printed.getvalue()


def call(run, inputs, folder, *words):
    flags = ["--run", run, "--images", *inputs, "--out", folder / "out.csv"]
    # The references are computed in float32; the default precision depends on the machine.
    flags += ["--batch_size", 1, "--num_workers", 0, "--precision", "32-true", *words]
    return predict.main([str(word) for word in flags])


def inputs_of(path):
    """Prepare an image for the network: [1,3,SIZE,SIZE] float32."""
    return normalise(torch.from_numpy(preprocess(read_image(path), SIZE, True))[None, None])


def maps_by_hand(run, images, folds=(0, 1), flip=False, which="best"):
    """Predict one image at a time: id -> [H,W] uint8 levels."""
    names = {"a name that is not its id": "1.2.3.4", "other": "1.2.5"}
    networks = []
    for fold in folds:
        network = build_model("unet_resnet34", pretrained=False)
        state = torch.load(run / f"fold{fold}" / f"stage2_{which}.pth")["state_dict"]
        network.load_state_dict(state)
        networks.append(network.eval().to(memory_format=torch.channels_last))
    maps = {}
    for path in sorted(images.rglob("*.*")):
        grey = read_image(path)
        x = inputs_of(path)
        with torch.no_grad():
            each = [torch.sigmoid(network(x)) for network in networks]
            if flip:
                each += [torch.sigmoid(n(x.flip(-1))).flip(-1) for n in networks]
            full = torch.nn.functional.interpolate(
                sum(each[1:], each[0]) / len(each), grey.shape, mode="bilinear", align_corners=False
            )
        maps[names.get(path.stem, path.stem)] = (full[0, 0] * 255).numpy().astype(np.uint8)
    return maps


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def saved_maps(folder):
    return {path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in folder.iterdir()}


def linked(run, target):
    """Create a run folder of links, whose files can be removed or replaced."""
    for path in run.rglob("*"):
        if path.is_file():
            (target / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path, target / path.relative_to(run))
    return target


def broken(folder):
    """Add two unreadable images to a folder and return their paths."""
    picture = next(path for path in folder.iterdir() if path.name == "plain.png")
    (folder / "cut.png").write_bytes(picture.read_bytes()[:300])
    (folder / "not.dcm").write_bytes(b"no dicom")
    return [folder / "cut.png", folder / "not.dcm"]


def refusal(capsys, code):
    """Check that a command failed with a message and no traceback; return the message."""
    assert code == 2
    message = capsys.readouterr().err.split("error: ", 1)[1]
    assert "Traceback" not in message
    return message


def test_masks_and_scores_equal_those_computed_by_hand(run, images, outputs):
    maps, rule = maps_by_hand(run, images), load_rule(run / "threshold.json")
    submission, scores = rows(outputs[0] / "out.csv"), rows(outputs[0] / "scores.csv")
    assert sorted(row["ImageId"] for row in submission) == IDS
    assert [row["ImageId"] for row in scores] == [row["ImageId"] for row in submission]
    for row, score in zip(submission, scores, strict=True):
        levels = maps[row["ImageId"]]
        mask = decode(row["EncodedPixels"], *levels.shape)
        np.testing.assert_array_equal(mask, rule.mask(levels))
        assert int(score["area"]) == mask.sum()
        assert levels.max() == int(float(score["probability"]) * 255 + 1e-3)


def test_the_csv_has_kaggles_format(outputs):
    lines = (outputs[0] / "out.csv").read_bytes().decode().split("\n")
    assert lines[0] == "ImageId,EncodedPixels"
    assert lines[-1] == ""
    assert not any("\r" in line or '"' in line or " ," in line for line in lines)
    assert any(line.endswith(",-1") for line in lines)
    assert (outputs[0] / "scores.csv").read_bytes().startswith(b"ImageId,probability,area\n")


def test_overlays_are_written_with_a_contact_sheet(outputs):
    pictures = saved_maps(outputs[0] / "new" / "overlays")
    assert sorted(pictures) == sorted([*IDS, "contact_sheet"])
    tall, wide = pictures["plain"], pictures["large"]
    assert tall.shape[0] > PANEL
    assert tall.shape[1] > 3 * (PANEL * 60 // 72)
    assert wide.shape[1] > 3 * PANEL
    assert PANEL * 110 // 150 < wide.shape[0] < PANEL
    assert pictures["contact_sheet"].shape[0] > 2 * TILE
    assert 6 * TILE < pictures["contact_sheet"].shape[1] < 7 * TILE
    assert not [path for path in outputs[0].rglob(".*")]


def test_probability_maps_have_the_original_size(run, images, outputs):
    saved, by_hand = saved_maps(outputs[0] / "maps"), maps_by_hand(run, images)
    assert sorted(saved) == IDS
    for name, levels in saved.items():
        assert levels.dtype == np.uint8
        np.testing.assert_array_equal(levels, by_hand[name])
    assert saved["large"].shape == (110, 150)


def test_every_mask_becomes_a_dicom_segmentation(predicted, x_rays, tmp_path, capsys):
    pytest.importorskip("highdicom", reason="needs requirements-dicom-seg.txt")
    # The smallest image has 32x32 pixels, and therefore no mask.
    rule = ["--threshold", 0.1, "--min_area", 32 * 32 + 1, "--top_threshold", 0.1]
    texts = ["--seg_manufacturer", "a maker", "--seg_creator", "Doe^Jane"]
    flags = ["--dicom_seg", tmp_path / "new" / "segs", *texts, *rule, "--batch_size", 3]
    assert predicted(*flags, inputs=[x_rays]) == 0
    assert f"DICOM segmentations: {tmp_path / 'new' / 'segs'}" in capsys.readouterr().out
    masks = {row["ImageId"]: row["EncodedPixels"] for row in rows(tmp_path / "out.csv")}
    positive = [name for name, text in masks.items() if text != "-1"]
    written = sorted((tmp_path / "new" / "segs").iterdir())
    assert [path.name for path in written] == [f"{name}.dcm" for name in sorted(positive)]
    assert masks.keys() - set(positive) == {"1.2.7.2"}
    for path in written:
        found, source = (pydicom.dcmread(p) for p in (path, x_rays / f"{path.stem[-1]}.dcm"))
        mask = decode(masks[path.stem], source.Rows, source.Columns)
        np.testing.assert_array_equal(found.pixel_array, mask)
        (reference,) = found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert reference.ReferencedSOPInstanceUID == path.stem
        assert (found.PatientID, found.Manufacturer) == (source.PatientID, "a maker")
        (algorithm,) = found.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == "pneumothorax-segmentation"
        assert algorithm.AlgorithmParameters.startswith("runs=run (weight 1),tta=none,rule=masks")
    read = read_segment(written[0], tmp_path / "read")
    np.testing.assert_array_equal(read.mask, pydicom.dcmread(written[0]).pixel_array)
    message = refusal(capsys, predicted(*flags, inputs=[x_rays]))
    assert f"{written[0]}: exists already" in message
    assert not [path for path in tmp_path.rglob(".*")]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dicom_seg", "segs"], ["plain.png is no DICOM", "and neither are 4 others"]),
        (["--seg_creator", "Jane"], ["--seg_creator: has no effect without --dicom_seg"]),
        (["--dicom_seg", "segs", "--seg_creator", "a\\b"], ["--seg_creator", "without \\"]),
        (["--dicom_seg", "x", "--overlays", "x"], ["the same folder"]),
    ],
)
def test_bad_settings_of_segmentations_are_refused_before_any_network_runs(
    predicted, images, tmp_path, capsys, monkeypatch, flags, words
):
    monkeypatch.setattr("utils.inference.segmentations.check_installed", lambda: None)
    monkeypatch.setattr("utils.commands.predict.open_blend", lambda *_: 1 / 0)
    files = [images / "plain.png", images / "other.dcm", images]
    message = refusal(capsys, predicted(*flags, inputs=files))
    assert all(word in message for word in words), message
    assert not list(tmp_path.iterdir())


def test_a_dicom_that_cannot_be_referred_to_is_refused_before_any_network_runs(
    predicted, images, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("utils.inference.segmentations.check_installed", lambda: None)
    monkeypatch.setattr("utils.commands.predict.open_blend", lambda *_: 1 / 0)
    code = predicted("--dicom_seg", tmp_path / "segs", inputs=[images / "other.dcm"])
    message = refusal(capsys, code)
    assert "other.dcm: has no SeriesInstanceUID, StudyInstanceUID" in message


def test_the_package_that_segmentations_need_is_named_before_any_network_runs(
    predicted, x_rays, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.setattr("utils.commands.predict.open_blend", lambda *_: 1 / 0)
    message = refusal(capsys, predicted("--dicom_seg", tmp_path / "segs", inputs=[x_rays]))
    assert "not installed: highdicom" in message
    assert "pip install -r requirements-dicom-seg.txt" in message


def test_results_and_costs_are_printed(outputs):
    folder, printed = outputs
    masks = sum(row["EncodedPixels"] != "-1" for row in rows(folder / "out.csv"))
    assert f"7 images, {masks} with a mask" in printed
    assert "images/s, peak memory" in printed
    assert str(folder / "out.csv") in printed
    assert "contact_sheet.png" in printed


def test_folds_and_mirror_images_are_averaged(run, images, predicted, tmp_path):
    one, both = maps_by_hand(run, images, folds=(1,)), maps_by_hand(run, images)
    flip = maps_by_hand(run, images, flip=True)
    for expected, flags in ((one, ["--folds", 1]), (flip, ["--tta", "hflip"])):
        assert predicted("--probabilities", tmp_path / "maps", *flags) == 0
        saved = saved_maps(tmp_path / "maps")
        assert all(np.abs(saved[n].astype(int) - expected[n]).max() <= 1 for n in IDS)
        assert any((expected[n] != both[n]).mean() > 0.5 for n in IDS)


def test_the_last_epoch_can_be_used(run, images, predicted, tmp_path):
    other = linked(run, tmp_path / "run")
    (other / "fold0" / "stage2_last.pth").unlink()
    content = torch.load(run / "fold1" / "stage2_last.pth")
    torch.save(content | {"fold": 0}, other / "fold0" / "stage2_last.pth")
    flags = ["--checkpoint", "last", "--folds", 0, "--probabilities", tmp_path / "maps"]
    assert predicted(*flags, run=other) == 0
    expected = maps_by_hand(other, images, folds=(0,), which="last")["plain"]
    np.testing.assert_array_equal(saved_maps(tmp_path / "maps")["plain"], expected)


def test_batch_size_and_workers_change_nothing(outputs, predicted, tmp_path):
    flags = ["--batch_size", 3, "--num_workers", 1]
    assert predicted("--probabilities", tmp_path / "maps", *flags) == 0
    one, many = saved_maps(outputs[0] / "maps"), saved_maps(tmp_path / "maps")
    assert all(np.abs(one[n].astype(int) - many[n]).max() <= 1 for n in IDS)
    assert one.keys() == many.keys()


def test_rows_follow_the_sample_submission(predicted, tmp_path, capsys):
    sample = tmp_path / "sample.csv"
    sample.write_text("ImageId,EncodedPixels\nsmall,-1\n1.2.3.4,-1\ndeep,-1\n")
    assert predicted("--sample_submission", sample) == 0
    assert [row["ImageId"] for row in rows(tmp_path / "out.csv")] == ["small", "1.2.3.4", "deep"]
    assert "4 images are not in" in capsys.readouterr().out


def test_parts_of_the_rule_can_be_set_by_flags(run, images, outputs, predicted, tmp_path):
    rule, maps = load_rule(run / "threshold.json"), maps_by_hand(run, images)
    assert predicted("--min_area", 0) == 0
    by_flags = {row["ImageId"]: row["EncodedPixels"] for row in rows(tmp_path / "out.csv")}
    for name, levels in maps.items():
        mask = decode(by_flags[name], *levels.shape)
        np.testing.assert_array_equal(mask, rule.cut(levels))
    assert "-1" not in by_flags.values()
    assert any(row["EncodedPixels"] == "-1" for row in rows(outputs[0] / "out.csv"))


def test_no_threshold_json_is_needed_if_flags_set_the_rule(run, predicted, tmp_path, capsys):
    other = linked(run, tmp_path / "run")
    (other / "threshold.json").unlink()
    assert predicted("--threshold", 0.0, "--min_area", 0, run=other) == 0
    assert "masks above 0.000 (probabilities from 0.0039)" in capsys.readouterr().out
    assert all(int(row["area"]) > 0 for row in rows(tmp_path / "scores.csv"))
    assert "threshold.json" in refusal(capsys, predicted("--threshold", 0.5, run=other))


def test_components_can_be_dropped(run, images, predicted, tmp_path):
    """Compared with labelling the components of the mask before the filter."""
    rule, maps = load_rule(run / "threshold.json"), maps_by_hand(run, images)
    flags = ["--min_area", 0, "--min_component_area", 40, "--min_component_mean", 0.6]
    assert predicted(*flags) == 0
    found = {row["ImageId"]: row["EncodedPixels"] for row in rows(tmp_path / "out.csv")}
    dropped = kept = 0
    for name, levels in maps.items():
        unfiltered = rule.cut(levels)
        count, labels = cv2.connectedComponents(unfiltered, connectivity=8)
        expected = np.zeros_like(unfiltered)
        for label in range(1, count):
            part = labels == label
            stays = part.sum() >= 40 and levels[part].mean() >= 0.6 * 255
            expected[part] = stays
            kept, dropped = kept + stays, dropped + (not stays)
        np.testing.assert_array_equal(decode(found[name], *levels.shape), expected)
    assert kept
    assert dropped


def test_flags_override_the_same_part_of_threshold_json(run, predicted, tmp_path):
    other = linked(run, tmp_path / "run")
    content = json.loads((run / "threshold.json").read_text())
    (other / "threshold.json").unlink()
    (other / "threshold.json").write_text(json.dumps(content | {"min_component_area": 10**6}))
    three = [word for name in content if name != "pooled" for word in (f"--{name}", content[name])]
    assert predicted(*three, run=other) == 0
    assert {row["EncodedPixels"] for row in rows(tmp_path / "out.csv")} == {"-1"}
    assert predicted("--min_component_area", 0, run=other) == 0
    assert {row["EncodedPixels"] for row in rows(tmp_path / "out.csv")} > {"-1"}


def test_unreadable_images_are_all_reported_and_nothing_is_written(
    images, predicted, tmp_path, capsys
):
    copy = Path(shutil.copytree(images, tmp_path / "images"))
    bad, before = broken(copy), sorted(tmp_path.rglob("*"))
    flags = ["--overlays", tmp_path / "new" / "overlays", "--probabilities", tmp_path / "maps"]
    message = refusal(capsys, predicted(*flags, inputs=[copy]))
    assert all(str(path) in message for path in bad)
    assert "--skip_bad true" in message
    assert sorted(tmp_path.rglob("*")) == before


def test_unreadable_images_can_be_skipped(images, predicted, tmp_path, capsys):
    copy = Path(shutil.copytree(images, tmp_path / "images"))
    bad = broken(copy)
    flags = ["--skip_bad", "true", "--batch_size", 2, "--num_workers", 1]
    assert predicted(*flags, inputs=[copy]) == 0
    assert sorted(row["ImageId"] for row in rows(tmp_path / "out.csv")) == IDS
    text = capsys.readouterr().out
    assert all(str(path) in text for path in bad)
    assert "no image can be used" in refusal(capsys, predicted("--skip_bad", "true", inputs=bad))


def test_a_skipped_image_in_the_sample_submission_is_not_missing(
    images, predicted, tmp_path, capsys
):
    copy = Path(shutil.copytree(images, tmp_path / "images"))
    broken(copy)
    sample = tmp_path / "sample.csv"
    sample.write_text("ImageId,EncodedPixels\nnot,-1\nsmall,-1\ncut,-1\n")
    flags = ["--sample_submission", sample, "--skip_bad", "true"]
    assert predicted(*flags, inputs=[copy]) == 0
    assert [row["ImageId"] for row in rows(tmp_path / "out.csv")] == ["small"]


def test_two_files_with_the_same_id_are_refused(images, predicted, tmp_path, capsys):
    shutil.copy(images / "plain.png", tmp_path / "plain.png")
    message = refusal(capsys, predicted(inputs=[images, tmp_path / "plain.png"]))
    assert str(images / "plain.png") in message
    assert str(tmp_path / "plain.png") in message
    assert predicted(inputs=[images / "plain.png", images]) == 0


@pytest.mark.parametrize("rule", ["uid", "file"])
def test_files_with_the_same_id_are_refused_by_the_name_of_a_rule(
    predicted, tmp_path, capsys, rule
):
    for folder in ("one", "two"):
        write_dicom(tmp_path / f"patients/{folder}/view1.dcm", picture())
    message = refusal(capsys, predicted("--ids", rule, inputs=[tmp_path / "patients"]))
    assert f"are both image {'1.2.3' if rule == 'uid' else 'view1'}; remove one, or, if" in message
    assert "--ids path" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ImageId,EncodedPixels\nplain,-1\nnobody,-1\n", ["names 1 images", "nobody"]),
        ("ImageId,EncodedPixels\nnobody,-1\n", ["names 1 images", "nobody", "has 1.2.3.4"]),
        ("Id,Pixels\nplain,-1\n", ["ImageId (or ImageID"]),
    ],
)
def test_a_bad_sample_submission_is_refused(predicted, tmp_path, capsys, text, words):
    sample = tmp_path / "sample.csv"
    sample.write_text(text)
    message = refusal(capsys, predicted("--sample_submission", sample))
    assert all(word in message for word in words), message
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--presence_threshold", "0.5"], ["presence_threshold 0.5", "a presence head"]),
        (["--weights", "1,2"], ["--weights 1,2", "1 in all"]),
        (["--folds", "0,2"], ["--folds 0,2", "0 to 1"]),
        (["--images", "README.md"], ["README.md", ".dcm"]),
        (["--images", "checkpoints/.empty"], ["checkpoints/.empty"]),
        (["--out", "scores.csv"], ["scores.csv"]),
        (["--out", "SOCKET"], ["s.socket", "cannot be written to", "not a file but a device"]),
        (["--overlays", "x", "--probabilities", "x"], ["the same folder"]),
        (["--overlays", "IMAGES"], ["holds images to predict"]),
        (["--accelerator", "abacus"], ["--accelerator abacus"]),
        (["--devices", "none"], ["--devices none"]),
    ],
)
def test_bad_settings_are_refused(predicted, images, tmp_path, capsys, flags, words):
    path = images.parent / "s.socket"
    named = {"IMAGES": images, "SOCKET": path}
    with socket.socket(socket.AF_UNIX) as server:
        if "SOCKET" in flags:
            server.bind(str(path))
        message = refusal(capsys, predicted(*(named.get(flag, flag) for flag in flags)))
    assert all(word in message for word in words), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "value", "range_"),
    [
        ("threshold", "1.5", "v>=0 and v<=1"),
        ("top_threshold", "-0.5", "v>=0 and v<=1"),
        ("min_area", "-1", "v>=0"),
        ("presence_threshold", "1.5", "v>=0 and v<=1"),
        ("min_component_area", "-1", "v>=0"),
        ("min_component_mean", "2", "v>=0 and v<=1"),
        ("batch_size", "0", "v>=1"),
        ("num_workers", "-1", "v>=0"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_flag(
    predicted, tmp_path, capsys, flag, value, range_
):
    with pytest.raises(SystemExit) as ended:
        predicted(f"--{flag}", value)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert f'"{flag}"' in message
    assert value in message
    assert range_ in message
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_refused(predicted, tmp_path, capsys):
    assert "has no .dcm" in refusal(capsys, predicted(inputs=[tmp_path]))


def test_a_folder_that_is_not_a_run_is_refused(predicted, tmp_path, capsys):
    assert "has no config.yaml" in refusal(capsys, predicted(run=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("fold0/stage2_best", "fold1/stage2_best", ["fold 0, stage 2", "fold 1, stage 2 belongs"]),
        ("fold1/stage1_best", "fold1/stage2_best", ["fold 1, stage 1", "fold 1, stage 2 belongs"]),
    ],
)
def test_a_checkpoint_in_the_wrong_place_is_refused(
    run, predicted, tmp_path, capsys, source, target, words
):
    copy, path = linked(run, tmp_path / "copy"), tmp_path / "copy" / f"{target}.pth"
    path.unlink()
    path.symlink_to(run / f"{source}.pth")
    message = refusal(capsys, predicted(run=copy))
    assert all(word in message for word in [f"{path} holds", *words]), message


def test_a_missing_fold_is_reported_with_the_flag_to_leave_it_out(run, predicted, tmp_path, capsys):
    other = linked(run, tmp_path / "run")
    (other / "fold1" / "stage2_best.pth").unlink()
    message = refusal(capsys, predicted(run=other))
    assert "fold1/stage2_best.pth" in message
    assert "--folds 0" in message
    assert predicted("--folds", "0", run=other) == 0


def test_an_unfinished_fold_is_averaged_with_finished_ones_only_if_it_is_named(
    run, predicted, tmp_path, capsys
):
    other = linked(run, tmp_path / "run")
    (other / "fold1" / "oof.npz").unlink()
    message = refusal(capsys, predicted(run=other))
    assert f"fold 1 is not finished: {other}/fold1/oof.npz does not exist" in message
    assert "without it: --folds 0." in message
    assert predicted("--folds", "0", run=other) == 0
    assert predicted("--folds", "0,1", run=other) == 0
    (other / "fold0" / "oof.npz").unlink()
    assert predicted(run=other) == 0


@pytest.mark.parametrize(
    "damage", ["truncated", "other network", "other shape", "no weights", "pickle"]
)
def test_an_unusable_checkpoint_is_refused_with_its_path(run, predicted, tmp_path, capsys, damage):
    other = linked(run, tmp_path / "run")
    victim = other / "fold1" / "stage2_best.pth"
    checkpoint = torch.load(victim)
    content = {name: checkpoint[name] for name in ("state_dict", "model_type")}
    victim.unlink()
    if damage == "truncated":
        victim.write_bytes((run / "fold1" / "stage2_best.pth").read_bytes()[:5000])
    elif damage == "other network":
        torch.save(content | {"model_type": "unet_vgg"}, victim)
    elif damage == "other shape":
        content["state_dict"]["final_conv.weight"] = torch.zeros(3)
        torch.save(content, victim)
    elif damage == "no weights":
        torch.save({"model_type": "unet_resnet34"}, victim)
    else:
        torch.save(content | {"model_type": Path("unet_resnet34")}, victim)
    message = refusal(capsys, predicted(run=other))
    assert "fold1/stage2_best.pth" in message
    assert damage != "other network" or "unet_vgg" in message
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"threshold": "high", "min_area": 0, "top_threshold": 1}']
)
def test_an_invalid_threshold_json_is_refused(run, predicted, tmp_path, capsys, text):
    other = linked(run, tmp_path / "run")
    (other / "threshold.json").unlink()
    (other / "threshold.json").write_text(text)
    assert "threshold.json" in refusal(capsys, predicted(run=other))


def test_a_failure_at_the_end_leaves_no_files(predicted, x_rays, tmp_path, capsys, monkeypatch):
    pytest.importorskip("highdicom", reason="needs requirements-dicom-seg.txt")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("utils.inference.planning.write_submission", fail)
    flags = ["--overlays", tmp_path / "overlays", "--probabilities", tmp_path / "maps"]
    flags += ["--dicom_seg", tmp_path / "segs", "--threshold", 0.1, "--min_area", 0]
    assert "No space left" in refusal(capsys, predicted(*flags, inputs=[x_rays]))
    assert list(tmp_path.iterdir()) == [x_rays]


def test_the_help_starts_with_commands_and_lists_every_setting(capsys):
    with pytest.raises(SystemExit) as stopped:
        predict.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "    python predict.py --run checkpoints/unet_resnet34/RUN --images" in text
    for flag in (
        "--tta",
        "--skip_bad",
        "--top_threshold",
        "--probabilities",
        "--sample_submission",
    ):
        assert flag in text


@pytest.mark.slow
def test_two_processes_split_the_images(run, images, outputs, tmp_path):
    flags = ["--run", run, "--images", images, "--out", tmp_path / "out.csv"]
    flags += ["--accelerator", "cpu", "--devices", 2, "--num_workers", 0, "--batch_size", 1]
    flags += ["--overlays", tmp_path / "overlays", "--precision", "32-true"]
    done = subprocess.run(
        [sys.executable, "predict.py", *map(str, flags)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("7 images, ") == 1
    assert (tmp_path / "out.csv").read_text() == (outputs[0] / "out.csv").read_text()
    # The last bits depend on the number of threads, which the processes share.
    for one, two in zip(
        rows(outputs[0] / "scores.csv"), rows(tmp_path / "scores.csv"), strict=True
    ):
        assert (one["ImageId"], one["area"]) == (two["ImageId"], two["area"])
        assert float(one["probability"]) == pytest.approx(float(two["probability"]), abs=1e-6)
    assert len(list((tmp_path / "overlays").iterdir())) == len(IDS) + 1
