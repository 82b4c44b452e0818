"""The command line of prepare on images whose ids need a rule or a table."""

import json

import cv2
import numpy as np
import pytest

from datasets.prepare import main
from tests.helpers.dicoms import picture, write_dicom
from tests.helpers.image_files import read_pixels


@pytest.fixture
def prepare(tmp_path, capsys, monkeypatch):
    """Run the command below `tmp_path`, and return its text."""
    monkeypatch.chdir(tmp_path)

    def run(flags, code=0):
        result = main(["--images", "in", "--out", "out", "--num_workers", "0", *flags.split()])
        text = "".join(capsys.readouterr())
        assert result == code, text
        return text

    return run


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def prepared(folder, split="test"):
    return {p.stem: read_pixels(p) for p in (folder / f"out/{split}_images").iterdir()}


def write_views(folder):
    """Write images as CheXpert names them, and return them by path."""
    views = {
        f"p{patient}__s{study}__view1": picture(seed=patient * 2 + study)
        for patient in (1, 2)
        for study in (1, 2)
    }
    for name, grey in views.items():
        write_png(folder / f"in/{name.replace('__', '/')}.png", grey)
    return views


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, pixels in expected.items():
        assert np.array_equal(found[name], pixels)


def test_where_stems_repeat_the_error_names_the_rule_that_tells_images_apart(prepare, tmp_path):
    views = write_views(tmp_path)
    text = prepare("--split test", code=1)
    assert "view1.png have the same id but different pixels; remove one, or" in text
    assert "--ids path" in text
    prepare("--split test --ids path --out other")
    (tmp_path / "out").rename(tmp_path / "refused")
    (tmp_path / "other").rename(tmp_path / "out")
    assert_equal(prepared(tmp_path), views)
    assert json.loads((tmp_path / "out/test_ids.json").read_text()) == {"ids": "path"}


def test_two_masks_of_images_with_one_id_are_no_parts_to_join(prepare, tmp_path):
    write_views(tmp_path)
    for study in (1, 2):
        write_png(tmp_path / f"masks/p1/s{study}/view1.png", picture() & 128)
    text = prepare("--masks masks", code=1)
    assert "in/p1/s1/view1.png and in/p1/s2/view1.png are both this image; if they are" in text
    assert "--ids path" in text
    assert "join" not in text


def test_masks_of_ids_by_path_are_found_by_their_paths(prepare, tmp_path):
    views = write_views(tmp_path)
    shapes = {name: (grey > 140) * np.uint8(255) for name, grey in views.items()}
    for name, shape in shapes.items():
        write_png(tmp_path / f"masks/{name.replace('__', '/')}_mask.png", shape)
    # A file name alone names no image here.
    write_png(tmp_path / "masks/view1.png", picture() & 128)
    prepare("--masks masks --ids path")
    assert_equal(prepared(tmp_path, "train"), views)
    masks = {p.stem: read_pixels(p) for p in (tmp_path / "out/train_mask").iterdir()}
    assert_equal(masks, {name: (grey > 140) * np.uint8(255) for name, grey in views.items()})


def test_one_data_set_has_one_rule(prepare, tmp_path):
    """An image could otherwise be there twice, under two ids."""
    write_dicom(tmp_path / "in/a.dcm", picture(), "1.2")
    prepare("--split test --ids file")
    assert "images are named by --ids file, and these would be by --ids uid" in prepare(
        "--split test", code=2
    )
    prepare("--split test --ids file")
    assert list(prepared(tmp_path)) == ["a"]
    prepare("--split test --out another")
    assert "by --ids uid, and these would be by --ids path" in prepare(
        "--split test --ids path --out another", code=2
    )


def test_a_csv_that_names_dicoms_by_their_files_needs_the_rule(prepare, tmp_path):
    write_dicom(tmp_path / "in/a.dicom", picture(), "1.2")
    write_dicom(tmp_path / "in/b", picture(seed=1), "1.3")
    (tmp_path / "rle.csv").write_text("image_id,EncodedPixels\na.dicom,5 10\nb,-1\n")
    text = prepare("--rle rle.csv", code=2)
    assert "no row for any of the 2 images in in, such as 1.2; it has ids such as a." in text
    assert "--ids file" in text
    prepare("--rle rle.csv --ids file")
    assert_equal(prepared(tmp_path, "train"), {"a": picture(), "b": picture(seed=1)})


@pytest.fixture
def dump(tmp_path):
    """The most used dump: files named by number, split and label, and a table of each split."""
    rows = {"train": [("1.1", 1), ("1.2", 0)], "test": [("1.3", 1)]}
    for split, images in rows.items():
        lines = ["new_filename,ImageId,has_pneumo"]
        for number, (name, label) in enumerate(images):
            file = f"{number}_{split}_{label}_.png"
            grey = picture(seed=int(name[-1]))
            write_png(tmp_path / "in" / file, grey)
            write_png(tmp_path / "png_masks" / file, (grey > 140) * np.uint8(255 * label))
            lines.append(f"{file},{name},{label}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_table_of_names_gives_the_ids_and_chooses_the_images(prepare, dump):
    (dump / "rle.csv").write_text("ImageId,EncodedPixels\n1.1,0 9\n1.2,-1\n")
    text = prepare("--rle rle.csv", code=2)
    assert "such as 0_test_1_; it has ids such as 1.1." in text
    assert "--names" in text
    text = prepare("--masks png_masks --names train.csv")
    assert_equal(prepared(dump, "train"), {f"1.{n}": picture(seed=n) for n in (1, 2)})
    masks = {p.stem: read_pixels(p).any() for p in (dump / "out/train_mask").iterdir()}
    assert masks == {"1.1": True, "1.2": False}
    assert "2 images written, 0 up to date, 1 positive; 0 unannotated" in text
    assert "1 mask files belong to none of these images" in text
    prepare("--names test.csv --split test")
    assert list(prepared(dump)) == ["1.3"]


def test_a_label_and_a_mask_that_contradict_each_other_are_both_named(prepare, dump):
    (dump / "train.csv").write_text(
        "new_filename,ImageId,has_pneumo\n0_train_1_.png,1.1,0\n1_train_0_.png,1.2,1\n9.png,7,0\n"
    )
    text = prepare("--masks png_masks --names train.csv", code=1)
    assert "train.csv row 2: says that there is no mask, but png_masks/0_train_1_.png has" in text
    assert "row 3: says that there is a mask, but png_masks/1_train_0_.png has none" in text
    assert "1 files that train.csv names are missing in in, such as 9\n" in text
    assert not prepared(dump, "train")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("new_filename,ImageId\nx.png,1\n", "names none of the images, such as 0_test_1_.png, but"),
        ("file,ImageId\nx.png,1\n", "looked for the columns new_filename (or filename, file_name)"),
        (
            "filename,ImageId\n0_test_1_.png,1\n0_test_1_,2\n",
            "row 3: names 0_test_1_ again",
        ),
        (
            "filename,ImageId\n0_train_1_.png,1\n0_test_1_.png,1.dcm\n",
            "row 3: gives the id 1 again, which is that of row 2",
        ),
        ("filename,ImageId\n0_test_1_.png,../1\n", "row 2: its image id '../1' is not a plain"),
        ("filename,ImageId,target\n0_test_1_.png,1,yes\n", "row 2: its label 'yes' is neither 0"),
        ("filename,ImageId\n.png,1\n", "names none"),
    ],
)
def test_an_unusable_table_is_reported(prepare, dump, table, message):
    (dump / "table.csv").write_text(table)
    assert message in prepare("--split test --names table.csv", code=2)
    assert not (dump / "out").exists()


def test_a_table_and_a_rule_contradict_each_other(prepare, dump, capsys):
    with pytest.raises(SystemExit):
        prepare("--split test --names test.csv --ids path")
    assert "--names gives the ids; leave out --ids path" in capsys.readouterr().err
