"""Every documented layout of data, in miniature: its command gives what the DICOM tree gives.

The layouts are built from drawn X-rays and, as a slow test, from real ones.
"""

import csv
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pydicom
import pytest

import evaluate
import predict
import solver
import train_sfold
from datasets import check, prepare, sample
from datasets.formats.images import copyable_bytes, find_images, image_id, read_image
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import SETTINGS, TinyNet, as_flags, build_tiny
from utils.inference import ensemble
from utils.training.start import plan

PAGES = [Path(__file__).parents[1] / page for page in ("README.md", "docs/data.md")]
SIZE, COUNT = 96, 8

Expected = dict[str, tuple[np.ndarray, np.ndarray | None]]
"""Image and mask by id, [H,W] uint8; None where the layout has no masks."""


class Tree(NamedTuple):
    """A DICOM tree with its csv, and what prepare makes of it.

    Attributes:
        csv: the run lengths.
        dicoms: the files of annotated images by id.
        images: [H,W] uint8 by id.
        masks: [H,W] uint8 of 0 and 255 by id.
    """

    csv: Path
    dicoms: dict[str, Path]
    images: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]

    def expected(self) -> Expected:
        """Return images and masks together."""
        return {name: (grey, self.masks[name]) for name, grey in self.images.items()}


def make_tree(images: Path, table: Path, out: Path) -> Tree:
    """Prepare a DICOM tree."""
    flags = ["--images", images, "--rle", table, "--out", out, "--num_workers", 0]
    assert prepare.main([str(flag) for flag in flags]) == 0
    found = read_prepared(out)
    dicoms = {image_id(path): path for path in find_images(images)}
    masks = {name: mask for name, (_, mask) in found.items() if mask is not None}
    grey = {name: image for name, (image, _) in found.items()}
    return Tree(table, {name: dicoms[name] for name in grey}, grey, masks)


def read_prepared(out: Path, split: str = "train") -> Expected:
    """Read all that prepare wrote."""
    masks = {path.stem: read_pixels(path) for path in out.glob(f"{split}_mask/*")}
    images = {path.stem: read_image(path) for path in out.glob(f"{split}_images/*")}
    assert split == "test" or masks.keys() == images.keys()
    return {name: (grey, masks.get(name)) for name, grey in images.items()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    flags = f"--out {root} --count {COUNT} --size {SIZE} --num_workers 0"
    assert sample.main(flags.split()) == 0
    return make_tree(root / "dicom-images-train", root / "train-rle.csv", root / "out")


@pytest.fixture(scope="module")
def real(siim_data, tmp_path_factory):
    """Positives and empty images, one of them with several rows, and an unannotated image."""
    root = tmp_path_factory.mktemp("real")
    source, wanted = siim_data / "siim/dicom", {"test_image1"}
    with open(siim_data / "siim/stage_2_train.csv", newline="") as file:
        rows = [row for row in csv.reader(file) if (source / f"{row[0]}.dcm").exists()]
    several = [row[0] for row in rows if sum(other[0] == row[0] for other in rows) > 1]
    wanted |= {*several[:2], *(row[0] for row in rows[:60:10])}
    for name in wanted:
        (root / f"tree/{name}").mkdir(parents=True)
        (root / f"tree/{name}/{name}.dcm").symlink_to(source / f"{name}.dcm")
    return make_tree(root / "tree", siim_data / "siim/stage_2_train.csv", root / "out")


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def write_pairs(tree: Tree, images: str, masks: str, white: int = 255) -> Expected:
    """Write images and masks as PNG, under file names with an id in them."""
    for name, grey in tree.images.items():
        write(Path(images.format(name)), grey)
        write(Path(masks.format(name)), tree.masks[name] // 255 * np.uint8(white))
    return tree.expected()


def dump(tree: Tree) -> Expected:
    root, ids = Path("siim-acr-pneumothorax"), sorted(tree.images)
    for split, first, last in (("train", 0, len(ids) - 2), ("test", len(ids) - 2, len(ids))):
        lines = ["new_filename,ImageId,has_pneumo"]
        for number, name in enumerate(ids[first:last]):
            label = int(tree.masks[name].any())
            file = f"{number}_{split}_{label}_.png"
            write(root / "png_images" / file, tree.images[name])
            write(root / "png_masks" / file, tree.masks[name])
            lines.append(f"{file},{name},{label}")
        (root / f"stage_1_{split}_images.csv").write_text("\n".join(lines) + "\n")
    return {name: pair for name, pair in tree.expected().items() if name in ids[:-2]}


def dump_test(tree: Tree) -> Expected:
    known = dump(tree)
    return {name: (grey, None) for name, grey in tree.images.items() if name not in known}


def dicom_tree(tree: Tree) -> Expected:
    copy_csv(tree)
    for name, path in tree.dicoms.items():
        Path(f"dicom-images-train/1.{name}/2.{name}").mkdir(parents=True)
        Path(f"dicom-images-train/1.{name}/2.{name}/{name}.dcm").symlink_to(path)
    return tree.expected()


def copy_csv(tree: Tree) -> None:
    Path("train-rle.csv").symlink_to(tree.csv)


def pack(tree: Tree) -> Expected:
    return write_pairs(tree, "train/{}.png", "masks/{}.png")


def small_pack(tree: Tree) -> Expected:
    expected: Expected = {}
    for name, grey in tree.images.items():
        half = (grey.shape[1] // 2, grey.shape[0] // 2)
        small = cv2.resize(grey, half, interpolation=cv2.INTER_AREA)
        # Blurred before, so that edges have greys on both sides of half.
        soft = cv2.resize(cv2.GaussianBlur(tree.masks[name], (5, 5), 0), half)
        write(Path(f"train/{name}.png"), small)
        write(Path(f"masks/{name}.png"), soft)
        expected[name] = small, (soft > 127) * np.uint8(255)
    return expected


def resized_with_csv(tree: Tree) -> Expected:
    copy_csv(tree)
    expected: Expected = {}
    for name, grey in tree.images.items():
        half = (grey.shape[1] // 2, grey.shape[0] // 2)
        small = cv2.resize(grey, half, interpolation=cv2.INTER_AREA)
        area = cv2.resize(tree.masks[name] / np.float32(255), half, interpolation=cv2.INTER_AREA)
        write(Path(f"png-512/{name}.png"), small)
        expected[name] = small, (area > 0.5) * np.uint8(255)
    return expected


def png_with_labels(tree: Tree) -> Expected:
    copy_csv(tree)
    return write_pairs(tree, "train_png/{}.png", "nowhere/{}.png")


def mmsegmentation(tree: Tree) -> Expected:
    return write_pairs(tree, "images/training/{}.png", "annotations/training/{}.png", 1)


def nested_unet(tree: Tree) -> Expected:
    return write_pairs(tree, "images/{}.png", "masks/0/{}.png")


def nnunet(tree: Tree) -> Expected:
    return write_pairs(tree, "imagesTr/{}_0000.png", "labelsTr/{}.png", 1)


def shenzhen(tree: Tree) -> Expected:
    return write_pairs(tree, "CXR_png/{}.png", "masks/{}_mask.png")


def montgomery(tree: Tree) -> Expected:
    for name, grey in tree.images.items():
        write(Path(f"CXR_png/{name}.png"), grey)
        left, right = tree.masks[name].copy(), tree.masks[name].copy()
        left[:, : grey.shape[1] // 2] = right[:, grey.shape[1] // 2 :] = 0
        write(Path(f"ManualMask/leftMask/{name}.png"), left)
        write(Path(f"ManualMask/rightMask/{name}.png"), right)
    return tree.expected()


def ptx498(tree: Tree) -> Expected:
    expected: Expected = {}
    for number, name in enumerate(tree.images):
        site, case = f"Site{'ABC'[number % 3]}", number // 3 + 1
        for part, kind in enumerate(("img", "mask", "merge"), start=1):
            pixels = tree.masks[name] if kind == "mask" else tree.images[name]
            write(Path(f"PTX-498/{site}/{case}.{part}.{kind}.png"), pixels)
        expected[f"{site}__{case}.1.img"] = tree.images[name], tree.masks[name]
    return expected


def candid(tree: Tree) -> Expected:
    Path("dataset").mkdir()
    lines = ["SOPInstanceUID,StudyInstanceUID,EncodedPixels,Report"]
    with open(tree.csv, newline="") as file:
        for name, text in list(csv.reader(file))[1:]:
            lines += [f'{name},1.{name},{text.strip()},"no, none\nat all"']
    for name, path in tree.dicoms.items():
        Path("dataset", name).symlink_to(path)
    Path("Pneumothorax_reports.csv").write_text("\n".join(lines) + "\n")
    return tree.expected()


def covid(tree: Tree) -> Expected:
    expected: Expected = {}
    for name, grey in tree.images.items():
        image, mask = (
            cv2.resize(grey, (299, 299)),
            cv2.resize(tree.masks[name], (256, 256), None, 0, 0, 0),
        )
        write(Path(f"COVID/images/{name}.png"), image)
        write(Path(f"COVID/masks/{name}.png"), cv2.merge([mask] * 3))
        soft = cv2.resize(mask / np.float32(255), (299, 299))
        expected[name] = image, (soft > 0.5) * np.uint8(255)
    return expected


def nih(tree: Tree) -> Expected:
    expected: Expected = {}
    for number, grey in enumerate(tree.images.values()):
        name = f"0000000{number // 2}_00{number % 2}"
        write(Path(f"nih/images_00{number % 3}/images/{name}.png"), grey)
        expected[name] = grey, None
    return expected


def mimic(tree: Tree) -> Expected:
    for number, (name, path) in enumerate(tree.dicoms.items()):
        write_frame(Path(f"files/p10/p1000003{number}/s50414267/{name}.jpg"), path)
    return without_masks(tree)


def chexpert(tree: Tree) -> Expected:
    expected: Expected = {}
    for number, (name, path) in enumerate(tree.dicoms.items()):
        parts = (f"patient0000{number // 2}", f"study{number % 2}", "view1_frontal")
        write_frame(Path("CheXpert-v1.0-small/train", *parts).with_suffix(".jpg"), path)
        expected["__".join(parts)] = tree.images[name], None
    return expected


def write_frame(target: Path, dicom: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(copyable_bytes(dicom) or b"")


def without_masks(tree: Tree) -> Expected:
    return {name: (grey, None) for name, grey in tree.images.items()}


def vindr(tree: Tree) -> Expected:
    return write_dicoms(tree, "train/{}.dicom", lambda dataset: dataset.pop("SOPInstanceUID"))


def rsna(tree: Tree) -> Expected:
    return write_dicoms(tree, "stage_2_train_images/{}.dcm", lambda dataset: None)


def write_dicoms(tree: Tree, target: str, change: Callable[[pydicom.Dataset], object]) -> Expected:
    """Write DICOMs under names that are not their UIDs."""
    expected: Expected = {}
    for number, (name, path) in enumerate(tree.dicoms.items()):
        dataset, file = pydicom.dcmread(path), Path(target.format(f"case{number}"))
        change(dataset)
        file.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(file)
        expected[f"case{number}"] = tree.images[name], None
    return expected


COMMANDS: dict[Callable[[Tree], Expected], str] = {
    dump: "--images siim-acr-pneumothorax/png_images --masks siim-acr-pneumothorax/png_masks "
    "--names siim-acr-pneumothorax/stage_1_train_images.csv",
    dump_test: "--images siim-acr-pneumothorax/png_images "
    "--names siim-acr-pneumothorax/stage_1_test_images.csv --split test",
    dicom_tree: "--images dicom-images-train --rle train-rle.csv",
    pack: "--images train --masks masks",
    small_pack: "--images train --masks masks --binarize",
    resized_with_csv: "--images png-512 --rle train-rle.csv --rle_size 1024x1024",
    png_with_labels: "--images train_png --rle train-rle.csv",
    mmsegmentation: "--images images/training --masks annotations/training",
    nested_unet: "--images images --masks masks/0",
    nnunet: "--images imagesTr --masks labelsTr",
    shenzhen: "--images CXR_png --masks masks",
    montgomery: "--images CXR_png --masks ManualMask/leftMask --masks ManualMask/rightMask",
    ptx498: "--images PTX-498 --masks PTX-498 --ids path",
    candid: "--images dataset --rle Pneumothorax_reports.csv",
    covid: "--images COVID/images --masks COVID/masks",
    nih: "--images nih --split test",
    mimic: "--images files --split test",
    chexpert: "--images CheXpert-v1.0-small/train --split test --ids path",
    vindr: "--images train --split test --ids file",
    rsna: "--images stage_2_train_images --split test --ids file",
}
"""The flags of the documented command of each layout."""


def run(layout: Callable[[Tree], Expected], tree: Tree) -> tuple[Expected, Expected]:
    """Build a layout in the working folder, and return what is expected and what prepare wrote."""
    flags, expected = COMMANDS[layout], layout(tree)
    side = next(iter(tree.images.values())).shape[0]
    flags = flags.replace("1024x1024", f"{side}x{side}")
    assert prepare.main(shlex.split(f"{flags} --num_workers 0")) == 0
    split = "test" if "--split test" in flags else "train"
    return expected, read_prepared(Path("datasets/SIIM_data"), split)


def assert_equal(found: Expected, expected: Expected) -> None:
    assert found.keys() == expected.keys()
    for name, (grey, mask) in expected.items():
        image, written = found[name]
        assert np.array_equal(image, grey), name
        assert (mask is None) == (written is None)
        if mask is not None and written is not None:
            assert np.array_equal(written, mask), name
    assert any(mask is None or mask.any() for _, mask in expected.values())


@pytest.mark.parametrize("layout", COMMANDS, ids=lambda layout: layout.__name__)
def test_the_command_of_a_layout_gives_what_the_dicom_tree_gives(
    layout, drawn, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    expected, found = run(layout, drawn)
    assert_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("layout", COMMANDS, ids=lambda layout: layout.__name__)
def test_so_it_does_for_real_images(layout, real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected, found = run(layout, real)
    assert_equal(found, expected)


def test_the_pages_document_these_commands_and_no_others():
    known = {f"python -m datasets.prepare {flags}" for flags in COMMANDS.values()}
    texts = (path.read_text(encoding="utf-8") for path in PAGES)
    rows = ("".join(re.findall(r"^\|.*$", text, re.MULTILINE)) for text in texts)
    readme, data = (
        set(re.findall(r"`(python -m datasets\.prepare --images [^`]*)`", row)) for row in rows
    )
    assert readme < data == known


TRAINED = {
    dump: (
        "--images datasets/SIIM_data/test_images",
        "siim-acr-pneumothorax/png_masks --names siim-acr-pneumothorax/stage_1_test_images.csv",
    ),
    montgomery: ("--images CXR_png", "ManualMask/leftMask ManualMask/rightMask"),
    nnunet: ("--images imagesTr", "labelsTr"),
}
"""What is predicted of a layout, and the truth that the prediction is scored against."""


@pytest.mark.slow
@pytest.mark.parametrize("layout", TRAINED, ids=lambda layout: layout.__name__)
def test_a_layout_goes_on_to_scored_predictions(layout, drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TinyNet, "size_step", 32, raising=False)
    for module in (plan, solver, ensemble):
        monkeypatch.setattr(module, "build_model", build_tiny)
    run(layout, drawn)
    if layout is dump:
        assert prepare.main(shlex.split(COMMANDS[dump_test])) == 0
    assert check.main([]) == 0
    changes = {"epoch_stage1": 1, "epoch_stage2": 1, "run_name": "run", "augmentation_flag": False}
    assert train_sfold.main(as_flags(SETTINGS | changes)) == 0
    images, truth = TRAINED[layout]
    flags = f"--run checkpoints/unet_resnet34/run {images} --threshold 0.1 --top_threshold 0.1"
    assert predict.main(shlex.split(f"{flags} --min_area 0 --num_workers 0")) == 0
    capsys.readouterr()
    assert evaluate.main(shlex.split(f"--submission submission.csv --truth {truth}")) == 0
    assert re.search(r"Dice +\d+ +[\d.]+", capsys.readouterr().out)
