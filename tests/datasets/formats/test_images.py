import os
import shutil

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image

from datasets.formats.images import copyable_bytes, find_images, image_id, read_image
from datasets.formats.masks import read_mask
from datasets.preprocessing import preprocess, resize_mask
from tests.helpers.dicoms import jpeg, picture, write_dicom, write_jpeg_dicom
from utils.errors import InputError


def test_images_are_found_in_subfolders_sorted_without_hidden_ones(tmp_path):
    wanted = ["a.dcm", "b/c/d.JPG", "b/e.jpeg", "b/f.Png", "z.DCM"]
    for name in [*wanted, "notes.txt", "._a.dcm", ".hidden/x.png", "no_suffix", "png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == sorted(tmp_path / name for name in wanted)


def test_dicoms_without_a_suffix_are_found_by_their_content(tmp_path):
    wanted = ["1.2.276.0.7230010.1517875165.878027", "a/no_suffix", "b.DICOM"]
    for name in wanted:
        write_dicom(tmp_path / name, picture())
    for name in ("README", "1.5", "table.csv", "no_suffix.txt"):
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICN")
    shutil.copy(tmp_path / wanted[1], tmp_path / "copy.bak")
    assert find_images(tmp_path) == sorted(tmp_path / name for name in wanted)
    assert np.array_equal(read_image(tmp_path / wanted[0]), picture())


def test_a_pipe_is_not_read_to_find_images(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    both_ends = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(both_ends, b"\0" * 128 + b"DICM")
    assert find_images(tmp_path) == []
    os.close(both_ends)


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    (tmp_path / "originals").mkdir()
    (tmp_path / "originals" / "a.png").touch()
    (tmp_path / "images").mkdir()
    images = tmp_path / "images"
    (images / "b.png").touch()
    os.symlink(tmp_path / "originals", images / "link")
    os.symlink(images, tmp_path / "originals" / "loop")
    assert find_images(images) == [images / "b.png", images / "link" / "a.png"]


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        find_images(tmp_path / "nowhere")


def test_an_unreadable_folder_is_reported(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="cannot be listed"):
        find_images(tmp_path)


def test_the_id_is_the_uid_of_a_dicom_and_the_stem_of_other_files(tmp_path):
    dicom = write_dicom(tmp_path / "renamed.dcm", picture(), uid="1.2.276.0.323329.1000")
    assert image_id(dicom) == "1.2.276.0.323329.1000"
    assert image_id("folder/1.2.276.878027.jpg") == "1.2.276.878027"
    assert image_id(tmp_path / "ID_0011fe81e.PNG") == "ID_0011fe81e"


@pytest.mark.parametrize(
    "uid", [".", "..", ".hidden", "a/b", "../up", "a\\b", "a\nb", "a\x00b", "x" * 250]
)
def test_a_uid_that_is_not_a_plain_file_name_is_refused(tmp_path, uid):
    path = write_dicom(tmp_path / "image.dcm", picture(), uid=uid)
    with pytest.raises(InputError, match=r"image\.dcm.*plain file name"):
        image_id(path)


def test_a_stem_that_is_not_a_plain_file_name_is_refused():
    for path in ("folder/.png", "folder/..png", "folder/a\nb.png", "folder/ a.png"):
        with pytest.raises(InputError, match="plain file name"):
            image_id(path)


def test_a_dicom_and_its_jpeg_have_the_same_pixels(tmp_path):
    dicom = write_jpeg_dicom(tmp_path / "a.dcm", picture())
    (tmp_path / "a.jpg").write_bytes(copyable_bytes(dicom))
    pixels = read_image(tmp_path / "a.jpg")
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, read_image(dicom))
    assert np.array_equal(pixels, pydicom.dcmread(dicom).pixel_array)


def test_real_jpegs_have_exactly_the_pixels_of_their_dicoms(siim_data, tmp_path):
    for dicom in find_images(siim_data / "siim" / "dicom")[::50]:
        (tmp_path / "frame.jpg").write_bytes(copyable_bytes(dicom))
        truth = pydicom.dcmread(dicom).pixel_array
        assert np.array_equal(read_image(tmp_path / "frame.jpg"), truth)
        assert np.array_equal(read_image(dicom), truth)


def test_png_is_read_exactly(tmp_path):
    grey = picture()
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    assert np.array_equal(read_image(tmp_path / "a.png"), grey)


def test_a_sixteen_bit_png_keeps_its_upper_byte(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    assert np.array_equal(read_image(tmp_path / "a.png"), values // 256)


def test_colour_becomes_luminance(tmp_path):
    colour = np.stack([picture(seed=seed) for seed in range(3)], axis=-1)
    Image.fromarray(colour).save(tmp_path / "a.png")
    luminance = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(tmp_path / "a.png") - luminance).max() < 1.01
    Image.fromarray(picture()).convert("RGB").save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), picture())


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(48, 64)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (48, 64)


def test_only_grey_eight_bit_files_can_be_copied(tmp_path):
    grey = picture()
    (tmp_path / "grey.jpg").write_bytes(jpeg(grey))
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    for name in ("grey.jpg", "grey.png"):
        assert copyable_bytes(tmp_path / name) == (tmp_path / name).read_bytes()
    Image.fromarray(grey).convert("RGB").save(tmp_path / "colour.jpg")
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16))
    for name in ("colour.jpg", "bits.png", "deep.png"):
        assert copyable_bytes(tmp_path / name) is None


@pytest.mark.parametrize("read", [read_image, copyable_bytes])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_reported(tmp_path, read, suffix, share):
    data = cv2.imencode(suffix, picture())[1].tobytes()
    path = tmp_path / f"short{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="short"):
        read(path)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(tmp_path):
    thumbnail = jpeg(picture(8, 8))
    application_data = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = jpeg(picture())
    complete = data[:2] + application_data + data[2:]
    (tmp_path / "a.jpg").write_bytes(complete)
    assert read_image(tmp_path / "a.jpg").shape == (48, 64)
    (tmp_path / "a.jpg").write_bytes(complete[:-20])
    with pytest.raises(InputError, match="truncated"):
        read_image(tmp_path / "a.jpg")


def test_a_jpeg_without_a_scan_is_refused_although_it_has_an_end(tmp_path):
    data = jpeg(picture())
    (tmp_path / "a.jpg").write_bytes(data[: data.rfind(b"\xff\xda")] + b"\xff\xd9")
    # Pillow 11 does not take it for a JPEG.
    with pytest.raises(InputError, match=r"truncated|neither a JPEG nor a PNG"):
        copyable_bytes(tmp_path / "a.jpg")


def test_files_that_are_missing_or_not_images_are_reported(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "missing.png", "missing.dcm"):
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


@pytest.mark.parametrize("clahe", [True, False])
@pytest.mark.parametrize("size", [128, 256, 512])
def test_preprocessing_is_clahe_at_the_original_size_then_resizing(clahe, size):
    grey = picture(256, 256)
    expected = cv2.createCLAHE(2.0, (8, 8)).apply(grey) if clahe else grey
    if size == 128:  # half the size: each pixel is the mean of four
        expected = expected.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    if size == 512:
        expected = cv2.resize(expected, (512, 512), interpolation=cv2.INTER_LINEAR)
    result = preprocess(grey, size, clahe)
    assert result.dtype == np.uint8
    assert result.shape == (size, size)
    assert np.abs(result - expected.astype(float)).max() <= 0.5


def test_preprocessing_does_not_modify_its_input_and_accepts_any_shape():
    grey = picture(30, 70)
    before = grey.copy()
    assert preprocess(grey, 48, True).shape == (48, 48)
    assert np.array_equal(grey, before)


def test_masks_are_read_as_zero_and_one(tmp_path):
    mask = (picture() > 150).astype(np.uint8)
    for level in (255, 1):
        cv2.imwrite(str(tmp_path / "mask.png"), mask * level)
        assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)
    Image.fromarray(mask * 255).convert("1").save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)
    cv2.imwrite(str(tmp_path / "mask.png"), mask * 0)
    assert not read_mask(tmp_path / "mask.png").any()


def test_a_mask_with_more_grey_levels_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "mask.png"), picture())
    with pytest.raises(InputError, match=r"mask\.png"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("size", [21, 32, 48, 63, 100, 126])
def test_a_mask_is_resized_to_the_pixels_nearest_to_the_new_centres(size):
    mask = (picture(63, 63) > 128).astype(
        np.uint8
    )  # an odd size, so that no centre is equally near to two pixels
    nearest = np.floor((np.arange(size) + 0.5) * 63 / size).astype(int)
    resized = resize_mask(mask, size)
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, mask[np.ix_(nearest, nearest)])


def test_an_animated_png_is_refused(tmp_path):
    """OpenCV crashes on some damaged ones."""
    path = tmp_path / "a.png"
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert b"acTL" in path.read_bytes()
    for read in (read_image, copyable_bytes):
        with pytest.raises(InputError, match="animated"):
            read(path)
    frames[0].save(path)
    assert np.array_equal(read_image(path), picture(seed=0))
