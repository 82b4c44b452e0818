import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from datasets.formats.dicom import grey_pixels, jpeg_frame, read_dicom
from datasets.formats.images import copyable_bytes, find_images, image_id, read_image
from datasets.prepare import main as prepare
from tests.helpers.dicoms import jpeg, picture, write_dicom, write_jpeg_dicom
from utils.config.prediction import parse_predict_options
from utils.errors import InputError


def frame_of(path):
    return jpeg_frame(read_dicom(path), path)


def lookup_table(entries, bits):
    table = Dataset()
    table.LUTDescriptor = [len(entries), 0, bits]
    table.LUTData = list(entries)
    table["LUTData"].VR = "US"
    return [table]


@pytest.mark.parametrize("shape", [(48, 64), (49, 65), (1, 1)])
def test_a_jpeg_baseline_frame_is_extracted_byte_for_byte(tmp_path, shape):
    data = jpeg(picture(*shape))
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture(*shape), frame=data)
    frame = frame_of(path)
    assert frame.rstrip(b"\0") == data
    assert len(frame) - len(data) == len(data) % 2  # DICOM pads fragments to an even length


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 100, "WindowWidth": 50},
        {"RescaleSlope": -1, "RescaleIntercept": 0},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"VOILUTSequence": lookup_table(range(255, -1, -1), 8)},
        {"ModalityLUTSequence": lookup_table(range(255, -1, -1), 8)},
    ],
    ids=lambda tags: next(iter(tags)),
)
def test_a_jpeg_that_looks_different_from_its_dicom_is_decoded(tmp_path, tags):
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture(), **tags)
    assert frame_of(path) is None
    plain = read_image(write_jpeg_dicom(tmp_path / "plain.dcm", picture()))
    assert not np.array_equal(read_image(path), plain)


def test_a_rescale_without_a_window_changes_no_grey_level(tmp_path):
    tags: dict[str, Any] = {"RescaleSlope": "2.5", "RescaleIntercept": "-20"}
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture(), **tags)
    assert frame_of(path)
    assert np.array_equal(grey_pixels(read_dicom(path), path), read_image(path))


def test_eight_bit_pixels_are_unchanged_and_monochrome1_is_inverted(tmp_path):
    grey = picture()
    assert np.array_equal(read_image(write_dicom(tmp_path / "a.dcm", grey)), grey)
    inverted = write_dicom(tmp_path / "b.dcm", grey, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_image(inverted), 255 - grey)


@pytest.mark.parametrize("bits", [12, 16])
def test_the_range_of_the_stored_bits_is_mapped_to_eight_bits(tmp_path, bits):
    values = np.linspace(0, 2**bits - 1, 48 * 64).astype(np.uint16).reshape(48, 64)
    grey = read_image(write_dicom(tmp_path / "a.dcm", values, bits=bits))
    assert np.array_equal(grey, np.rint(values / (2**bits - 1) * 255))


def test_signed_pixels_are_black_at_the_lowest_value(tmp_path):
    values = np.linspace(-2048, 2047, 48 * 64).astype(np.int16).reshape(48, 64)
    grey = read_image(write_dicom(tmp_path / "a.dcm", values, bits=12))
    assert np.array_equal(grey, np.rint((values + 2048.0) / 4095 * 255))


@pytest.mark.parametrize("slope", [1, 3, -1])
def test_a_window_is_applied_after_the_rescale(tmp_path, slope):
    values = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    center, width = slope * 20000 + 50, 10000
    tags = {"RescaleSlope": slope, "RescaleIntercept": 50}
    tags |= {"WindowCenter": [center, 1], "WindowWidth": [width, 2]}
    grey = read_image(write_dicom(tmp_path / "a.dcm", values, bits=16, **tags))
    scaled = values.astype(float) * slope + 50
    expected = ((scaled - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255
    assert np.abs(grey - expected).max() <= 0.5 + 1e-6
    assert {0, 255} <= set(grey.ravel())


def test_a_negative_slope_without_a_window_inverts(tmp_path):
    tags: dict[str, Any] = {"RescaleSlope": -1, "RescaleIntercept": 0}
    grey = picture()
    assert np.array_equal(read_image(write_dicom(tmp_path / "a.dcm", grey, **tags)), 255 - grey)


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_lookup_tables_are_applied_and_scaled_to_their_depth(tmp_path, sequence):
    entries = np.linspace(1023, 0, 256).astype(int)
    tags = {sequence: lookup_table(entries.tolist(), 16)}
    path = write_dicom(tmp_path / "a.dcm", picture(), **tags)
    assert np.array_equal(read_image(path), np.rint(entries[picture()] / 65535 * 255))


def test_other_supported_compressions_are_decoded(tmp_path):
    grey = picture()
    data = cv2.imencode(".jp2", grey, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1]
    path = write_jpeg_dicom(tmp_path / "a.dcm", grey, frame=data.tobytes(), syntax=JPEG2000Lossless)
    assert np.array_equal(read_image(path), grey)
    dataset = pydicom.dcmread(write_dicom(tmp_path / "b.dcm", grey))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "b.dcm")
    assert np.array_equal(read_image(tmp_path / "b.dcm"), grey)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize(
    ("write", "read"),
    # Whether uncompressed pixels are complete is known only when they are decoded.
    [(write_dicom, read_image), (write_jpeg_dicom, read_image), (write_jpeg_dicom, copyable_bytes)],
)
def test_a_truncated_dicom_is_reported(tmp_path, read, share, write):
    path = write(tmp_path / "short.dcm", picture(100, 100))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"short\.dcm"):
        read(path)


@pytest.mark.parametrize(
    "syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, JPEGExtended12Bit]
)
def test_an_unsupported_transfer_syntax_is_reported_in_full_without_a_list_of_plugins(
    tmp_path, syntax
):
    if get_decoder(syntax).is_available:
        pytest.skip("a package that another one needs can decode it")
    tags: dict[str, Any] = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture(), syntax=syntax, **tags)
    with pytest.raises(InputError) as error:
        read_image(path)
    assert str(error.value) == (
        f"{path}: its transfer syntax ({syntax.name}, {syntax}) needs a decoder that is not "
        "installed; convert it, for example with gdcmconv --raw"
    )


def test_a_long_reason_is_cut_between_words(tmp_path, monkeypatch):
    def fail(_):
        raise ValueError("one " * 99)

    monkeypatch.setattr(Dataset, "pixel_array", property(fail))
    with pytest.raises(InputError, match=r"cannot be decoded \(transfer .*\): (one )+\.\.\.$"):
        read_image(write_dicom(tmp_path / "a.dcm", picture()))


def test_a_jpeg_of_another_size_or_in_colour_is_not_copied(tmp_path):
    colour = cv2.imencode(".jpg", np.dstack([picture()] * 3))[1].tobytes()
    for frame in (jpeg(picture(16, 16)), colour):
        path = write_jpeg_dicom(tmp_path / "a.dcm", picture(), frame=frame)
        assert frame_of(path) is None


def test_colour_and_several_frames_are_refused(tmp_path):
    colour = np.dstack([picture()] * 3)
    with pytest.raises(InputError, match=r"a\.dcm: is RGB"):
        read_image(write_dicom(tmp_path / "a.dcm", colour))
    film = np.concatenate([picture()] * 2)
    with pytest.raises(InputError, match="2 frames"):
        read_image(write_dicom(tmp_path / "b.dcm", film, NumberOfFrames=2, Rows=48))


@pytest.mark.parametrize("frames", [None, 1])
@pytest.mark.parametrize("modality", ["CR", "CT"])
def test_two_frames_are_refused_whatever_the_header_says(tmp_path, frames, modality):
    tags = {"NumberOfFrames": frames, "Modality": modality}
    first, second = picture(), picture(seed=1)
    film = np.concatenate([first, second])
    raw = write_dicom(tmp_path / "raw.dcm", film, Rows=48, **tags)
    deep = write_dicom(tmp_path / "deep.dcm", film.astype(np.uint16), bits=16, Rows=48, **tags)
    reads: list[tuple[Path, Callable]] = [(raw, read_image), (deep, read_image)]
    for has_bot in (True, False):
        data = encapsulate([jpeg(first), jpeg(second)], has_bot=has_bot)
        path = write_jpeg_dicom(tmp_path / f"jpeg_{has_bot}.dcm", first, PixelData=data, **tags)
        # Uncompressed pixels are never copied.
        reads += [(path, read_image), (path, copyable_bytes)]
    for path, read in reads:
        with pytest.raises(InputError, match=rf"{path.name}: has 2 frames"):
            read(path, any_modality=True)


def test_a_frame_in_several_fragments_is_one_image(tmp_path):
    data = encapsulate([jpeg(picture())], fragments_per_frame=3, has_bot=False)
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture(), PixelData=data)
    assert np.array_equal(read_image(path), read_image(write_jpeg_dicom(path, picture())))


def test_files_that_are_not_dicom_are_reported(tmp_path):
    for name, data in (
        ("text.dcm", b"no dicom"),
        ("empty.dcm", b""),
        ("jpeg.dcm", b"\xff\xd8" * 99),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: is not a DICOM"):
            read_dicom(tmp_path / name)


@pytest.mark.filterwarnings("error")
def test_stage_two_ids_are_read_without_a_warning(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        path = write_dicom(tmp_path / "a.dcm", picture(), uid="ID_0011fe81e")
    assert read_dicom(path, pixels=False).SOPInstanceUID == "ID_0011fe81e"


def test_grey_pixels_of_a_real_dicom_equal_its_pixels(siim_data):
    path = siim_data / "siim" / "dicom" / "positive_sample.dcm"
    dataset = read_dicom(path)
    assert np.array_equal(grey_pixels(dataset, path), dataset.pixel_array)


def write_either(path, compressed, **tags):
    return (write_jpeg_dicom if compressed else write_dicom)(path, picture(), **tags)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("modality", ["CT", "MR", "RTDOSE"])
def test_a_dicom_of_another_modality_is_refused_unless_it_is_allowed(
    tmp_path, modality, compressed
):
    path = write_either(tmp_path / "a.dcm", compressed, Modality=modality)
    for read in (read_image, copyable_bytes):
        with pytest.raises(
            InputError, match=rf"a\.dcm: its modality is {modality}, .*--any_modality true"
        ):
            read(path)
    plain = read_image(write_either(tmp_path / "b.dcm", compressed))
    assert np.array_equal(read_image(path, any_modality=True), plain)
    assert bool(copyable_bytes(path, any_modality=True)) == compressed


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "RF", "XA", "", None, "missing"])
def test_x_rays_and_dicoms_without_a_modality_are_read(tmp_path, modality, compressed):
    tags = {} if modality == "missing" else {"Modality": modality}
    path = write_either(tmp_path / "a.dcm", compressed, **tags)
    assert ("Modality" in pydicom.dcmread(path)) == bool(tags)
    assert read_image(path).shape == (48, 64)
    assert bool(copyable_bytes(path)) == compressed


def test_prepare_converts_another_modality_on_request(tmp_path, capsys):
    for name in ("jpeg", "raw"):
        write_either(tmp_path / "in" / f"{name}.dcm", name == "jpeg", uid=name, Modality="CT")
    flags = ["--images", tmp_path / "in", "--out", tmp_path / "out", "--split", "test"]
    flags = [*map(str, flags), "--num_workers", "0"]
    for more in ([], ["--any_modality", "false"]):
        assert prepare([*flags, *more]) == 1
        assert capsys.readouterr().out.count("its modality is CT") == 2
        assert find_images(tmp_path / "out") == []
    assert prepare([*flags, "--any_modality", "true"]) == 0
    written = find_images(tmp_path / "out" / "test_images")
    assert [path.name for path in written] == ["jpeg.jpg", "raw.png"]
    assert np.array_equal(read_image(written[1]), picture())


@pytest.mark.parametrize(("flags", "allowed"), [([], False), (["--any_modality", "true"], True)])
def test_predict_can_be_told_to_accept_any_modality(flags, allowed):
    options = parse_predict_options(["--run", "run", "--images", "a.dcm", *flags], "")
    assert options.any_modality is allowed


@pytest.mark.parametrize("syntax", [JPEG2000, JPEG2000Lossless])
def test_jpeg_2000_data_that_is_larger_than_its_header_says_is_not_decoded(
    tmp_path, monkeypatch, syntax
):
    def never(_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Dataset, "pixel_array", property(never))
    sizes = {
        "60000x60000": (60_000, 60_000, 0, 0),
        "64x49": (64, 49, 0, 0),
        "59000x58000": (60_000, 60_000, 1000, 2000),
    }
    for said, corners in sizes.items():
        tile = struct.pack(">IIII", *corners[:2], 0, 0)
        body = struct.pack(">H", 0) + struct.pack(">IIII", *corners) + tile
        body += struct.pack(">HBBB", 1, 7, 1, 1)
        frame = b"\xff\x4f\xff\x51" + struct.pack(">H", len(body) + 2) + body + bytes(99)
        path = write_jpeg_dicom(tmp_path / "a.dcm", picture(), frame=frame, syntax=syntax)
        with pytest.raises(InputError, match=rf"a\.dcm: its header says 64x48 .* has {said}$"):
            read_image(path)
    short = write_jpeg_dicom(tmp_path / "b.dcm", picture(), frame=frame[:20], syntax=syntax)
    with pytest.raises(InputError, match=r"b\.dcm: its JPEG 2000 data is damaged"):
        read_image(short)


def test_a_codestream_in_another_box_does_not_hide_the_size_of_the_real_one(tmp_path):
    large = cv2.imencode(".jp2", np.zeros((600, 800), np.uint8))[1].tobytes()
    decoy = b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">IIII", 64, 48, 0, 0)
    box = struct.pack(">I4s", 8 + len(decoy), b"free") + decoy
    place = large.index(b"jp2c") - 4
    path = write_jpeg_dicom(
        tmp_path / "a.dcm", picture(), frame=large[:place] + box + large[place:], syntax=JPEG2000
    )
    with pytest.raises(InputError, match=r"header says 64x48 pixels, its data has 800x600"):
        read_image(path)


def test_a_jpeg_of_another_size_than_its_header_is_refused_where_it_is_decoded(tmp_path):
    path = write_jpeg_dicom(
        tmp_path / "a.dcm", picture(24, 64), PhotometricInterpretation="MONOCHROME1", Rows=48
    )
    with pytest.raises(InputError, match=r"header says 64x48 pixels, its data has 64x24"):
        read_image(path)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"BitsStored": 7, "HighBit": 6, "WindowCenter": 64, "WindowWidth": 128}, "says 7 bits"),
        ({"HighBit": 6}, "8 bits end at bit 6"),
    ],
)
def test_bits_that_contradict_the_data_are_refused(tmp_path, tags, reason):
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture(), **tags)
    with pytest.raises(InputError, match=reason):
        read_image(path)


def test_left_aligned_pixels_are_refused(tmp_path):
    pixels = picture().astype(np.uint16) << 8
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=12, HighBit=15)
    with pytest.raises(InputError, match="12 bits end at bit 15"):
        read_image(path)


def test_a_dicom_without_a_uid_has_the_stem_of_its_file_as_id(tmp_path):
    for name in ("a.dcm", "a.dicom", "a"):
        assert image_id(write_dicom(tmp_path / name, picture(), uid="")) == "a"
