"""Damaged files are refused and nothing is made up; good ones give the values that they store."""

import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image, ImageCms
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEGExtended12Bit

from datasets.formats import pixels as pixels_module
from datasets.formats.images import copyable_bytes, find_images, read_image
from datasets.prepare import main as prepare
from tests.helpers.dicoms import picture, write_jpeg_dicom
from utils.errors import InputError
from utils.limits import JPEG_SCANS

START_OF_SCAN, END = b"\xff\xda", b"\xff\xd9"
DAMAGE = {
    "zeroed": bytes(512),
    "white": b"\xff" * 512,
    "overwritten": np.random.default_rng(1).bytes(512),
    "cut out": b"",
}
WHITE = np.full((512, 512), 255, np.uint8)


def textured(height=256, width=256):
    """Generate a gradient with noise, whose JPEG has a long scan."""
    noise = np.random.default_rng(0).integers(-40, 41, (height, width))
    gradient = np.add.outer(np.arange(height), np.arange(width)) * 255 / (height + width)
    return np.clip(gradient + noise, 0, 255).astype(np.uint8)


def as_jpeg(image, **options):
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def damaged(data, how, share=0.5):
    """Replace 512 bytes of the scan of a JPEG, at a share of its length."""
    first, last = data.rindex(START_OF_SCAN) + 10, data.rindex(END) - 512
    position = first + round((last - first) * share)
    return data[:position] + DAMAGE[how] + data[position + 512 :]


def higher(data, height):
    """Promise more rows in the header of a JPEG than its data has."""
    position = data.index(b"\xff\xc0") + 5
    return data[:position] + struct.pack(">H", height) + data[position + 2 :]


def opencv_grey(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def assert_refused(path, capfd):
    for read in (read_image, copyable_bytes):
        with pytest.raises(InputError, match=rf"{path.name}: its JPEG data is damaged"):
            read(path)
    # The C library would print its warnings without naming the file.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
@pytest.mark.parametrize("image", [textured(), WHITE], ids=["textured", "white"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_jpeg_with_512_damaged_bytes_is_refused(tmp_path, capfd, how, image, share):
    data = damaged(as_jpeg(image), how, share)
    (tmp_path / "bad.jpg").write_bytes(data)
    assert_refused(tmp_path / "bad.jpg", capfd)
    assert_refused(write_jpeg_dicom(tmp_path / "bad.dcm", image, frame=data), capfd)


@pytest.mark.parametrize(
    "tags", [{"PhotometricInterpretation": "MONOCHROME1"}, {"syntax": JPEGExtended12Bit}], ids=str
)
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_jpeg_is_refused_in_a_dicom_that_is_converted(tmp_path, how, tags):
    good, bad = tmp_path / "good.dcm", tmp_path / "bad.dcm"
    data = as_jpeg(textured())
    write_jpeg_dicom(good, textured(), frame=data, **tags)
    write_jpeg_dicom(bad, textured(), frame=damaged(data, how), **tags)
    assert read_image(good).shape == (256, 256)
    with pytest.raises(InputError, match=r"bad\.dcm: its JPEG data is damaged"):
        read_image(bad)


def test_a_jpeg_that_promises_more_rows_than_it_has_is_refused(tmp_path, capfd):
    image, data = textured(), higher(as_jpeg(textured()), 512)
    (tmp_path / "bad.jpg").write_bytes(data)
    assert_refused(tmp_path / "bad.jpg", capfd)
    assert_refused(write_jpeg_dicom(tmp_path / "bad.dcm", image, frame=data, Rows=512), capfd)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("image", [textured(), picture(255, 131), WHITE, WHITE[:1, :1]])
def test_a_grey_jpeg_has_exactly_the_pixels_of_opencv(tmp_path, image, progressive):
    data = as_jpeg(image, progressive=progressive)
    (tmp_path / "a.jpg").write_bytes(data)
    assert copyable_bytes(tmp_path / "a.jpg") == data
    dicom = write_jpeg_dicom(tmp_path / "a.dcm", image, frame=data)
    for path in (tmp_path / "a.jpg", dicom):
        assert np.array_equal(read_image(path), opencv_grey(data))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
def test_a_colour_jpeg_is_read_as_its_luminance(tmp_path, options):
    colour = np.stack([picture(96, 80, seed) for seed in range(3)], axis=-1)
    # Pillow goes through RGB, which cuts off strong colours.
    for image in (colour, colour // 8 + 100):
        data = as_jpeg(image, **options)
        (tmp_path / "a.jpg").write_bytes(data)
        grey = read_image(tmp_path / "a.jpg")
        assert np.array_equal(grey, opencv_grey(data))
    pillow = np.asarray(Image.open(BytesIO(data)).convert("L"))
    assert np.abs(grey.astype(int) - pillow).max() <= 1


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_png_with_a_changed_byte_is_refused(tmp_path, share):
    data = bytearray(cv2.imencode(".png", textured())[1].tobytes())
    first, last = data.index(b"IDAT") + 4, data.rindex(b"IEND") - 8
    data[first + int((last - first) * share)] ^= 1
    (tmp_path / "bad.png").write_bytes(data)
    for read in (read_image, copyable_bytes):
        with pytest.raises(InputError, match=r"bad\.png: its PNG data is damaged"):
            read(tmp_path / "bad.png")


@pytest.fixture(scope="module")
def real_dicoms(siim_data):
    return find_images(siim_data / "siim" / "dicom")[::50]


def test_real_dicoms_with_512_zeroed_bytes_are_refused(real_dicoms, tmp_path):
    for number, path in enumerate(real_dicoms):
        dataset = pydicom.dcmread(path)
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        assert np.array_equal(read_image(path), opencv_grey(frame))
        bad = damaged(frame, "zeroed", share=number / len(real_dicoms))
        dataset.PixelData = encapsulate([bad])
        dataset.save_as(tmp_path / "bad.dcm")
        for read in (read_image, copyable_bytes):
            with pytest.raises(InputError, match=r"bad\.dcm: its JPEG data is damaged"):
                read(tmp_path / "bad.dcm")
    assert len(real_dicoms) >= 20


@pytest.mark.parametrize("suffix", [".jpg", ".dcm"])
def test_a_damaged_image_is_not_prepared_and_its_older_files_are_removed(tmp_path, capsys, suffix):
    images, image = tmp_path / "in", textured()
    images.mkdir()
    (images / "good.jpg").write_bytes(as_jpeg(image))
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\ngood,5 9\nbad,5 9\n")

    def run(data):
        if suffix == ".jpg":
            (images / "bad.jpg").write_bytes(data)
        else:
            write_jpeg_dicom(images / "bad.dcm", image, "bad", frame=data)
        flags = ["--images", images, "--rle", tmp_path / "rle.csv", "--out", tmp_path / "out"]
        return prepare([*map(str, flags), "--num_workers", "0"])

    assert run(as_jpeg(image)) == 0
    assert len(find_images(tmp_path / "out")) == 4
    capsys.readouterr()
    assert run(damaged(as_jpeg(image), "zeroed")) == 1
    assert f"refused: {images / 'bad'}{suffix}: its JPEG data is damaged" in capsys.readouterr().out
    assert {path.stem for path in find_images(tmp_path / "out")} == {"good"}


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def profile():
    """Make an ICC profile with a gamma of 1, as a chunk of a PNG."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    return chunk(b"iCCP", b"linear\0\0" + zlib.compress(data))


CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
COLOUR_CHUNKS = {
    "gAMA": chunk(b"gAMA", struct.pack(">I", 100_000)),
    "gAMA of a screen": chunk(b"gAMA", struct.pack(">I", 45_455)),
    "sRGB": chunk(b"sRGB", b"\0"),
    "cHRM": chunk(b"cHRM", struct.pack(">8I", *CHROMATICITIES)),
    "gAMA and cHRM": chunk(b"gAMA", struct.pack(">I", 45_455))
    + chunk(b"cHRM", struct.pack(">8I", *CHROMATICITIES)),
    "iCCP": profile(),
}


def png_with(image, extra):
    """Encode an RGB or grey image as a PNG, with chunks after its header."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    data, end_of_header = file.getvalue(), 33
    return data[:end_of_header] + extra + data[end_of_header:]


@pytest.mark.parametrize("extra", COLOUR_CHUNKS.values(), ids=COLOUR_CHUNKS)
def test_chunks_about_colour_do_not_change_what_a_png_is_read_as(tmp_path, extra):
    colour = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    (tmp_path / "plain.png").write_bytes(png_with(colour, b""))
    (tmp_path / "a.png").write_bytes(png_with(colour, extra))
    grey = read_image(tmp_path / "a.png")
    red, green, blue = np.moveaxis(colour.astype(float), -1, 0)
    assert np.abs(grey - np.rint(0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 1
    assert np.array_equal(grey, read_image(tmp_path / "plain.png"))
    (tmp_path / "grey.png").write_bytes(png_with(picture(), extra))
    assert np.array_equal(read_image(tmp_path / "grey.png"), picture())


def test_a_jpeg_of_too_many_scans_is_not_decoded(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("it was decoded")

    data = as_jpeg(picture(), progressive=True)
    usual = data.count(START_OF_SCAN)
    last_scan = data[data.rindex(START_OF_SCAN) : data.rindex(END)]
    attack = data[: data.rindex(END)] + last_scan * (JPEG_SCANS + 1 - usual) + END
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "bad.jpg").write_bytes(attack)
    bad_dicom = write_jpeg_dicom(tmp_path / "bad.dcm", picture(), frame=attack)
    assert 1 < usual <= 10
    assert read_image(tmp_path / "a.jpg").shape == picture().shape
    monkeypatch.setattr(pixels_module.simplejpeg, "decode_jpeg", never)
    for path in (tmp_path / "bad.jpg", bad_dicom):
        for read in (read_image, copyable_bytes):
            with pytest.raises(InputError, match=rf"{path.name}: a JPEG of 101 scans"):
                read(path)
