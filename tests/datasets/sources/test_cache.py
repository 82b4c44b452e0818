"""The cache: the same pixels as in the files, never stale or incomplete, shared by processes."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock

from datasets.siim import find_samples
from datasets.sources import cache as cache_module
from datasets.sources.cache import CacheSource
from datasets.sources.files import FileSource
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import write_dataset
from utils.errors import InputError

REPOSITORY = Path(__file__).parents[3]
_UNCOMPRESSED = (cv2.IMWRITE_PNG_COMPRESSION, 0)


@pytest.fixture
def data(tmp_path):
    """A data set that a test may damage."""
    return write_dataset(tmp_path / "data", count=5)


def open_cache(data, sizes=(32, 64), clahe=True, root=None, mask_resize="nearest"):
    return CacheSource(find_samples(data)[0], clahe, sizes, root or data / "cache", mask_resize)


def built(data, **settings):
    cache = open_cache(data, **settings)
    cache.build()
    return cache


def assert_same_pixels(cache, clahe=True):
    files = FileSource(cache.samples, clahe, cache.mask_resize)
    assert cache.mask_fractions() == files.mask_fractions()
    ids = list(cache.samples)[::-1]
    for size in cache.sizes:
        ours, theirs = cache.pixels(ids, size), files.pixels(ids, size)
        assert len(ours) == len(theirs) == len(ids)
        for i in range(len(ids)):
            arrays = [*ours.triple(i), *ours.pair(i)]
            expected = [*theirs.triple(i), *theirs.pair(i)]
            assert len(arrays) == len(expected) == 5
            for left, right in zip(arrays, expected, strict=True):
                assert left.dtype == right.dtype == np.uint8
                np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("clahe", [True, False])
def test_pixels_equal_those_of_the_files(data, clahe):
    """Even if images differ in size and mask pixels do not fill a byte."""
    odd = np.zeros((51, 37), np.uint8)
    odd[-1, -3:] = 255
    cv2.imwrite(str(data / "train_mask" / "image02.png"), odd)
    cv2.imwrite(str(data / "train_images" / "image02.png"), odd // 2)
    assert_same_pixels(built(data, clahe=clahe), clahe)
    assert_same_pixels(built(data, clahe=clahe, sizes=[50]), clahe)


def test_every_kind_of_mask_has_its_own_file_and_equals_that_of_the_files(data):
    """The images and the masks at their original sizes are shared."""
    caches = [built(data, mask_resize=method) for method in ("nearest", "area", "soft")]
    for cache in caches:
        assert_same_pixels(cache)
    stored = {path.name: path.stat().st_size for path in caches[0].folder.glob("masks_*")}
    assert stored == {
        "masks_original.bin": 5 * 72 * 60 // 8,
        **{
            f"masks_{side}{end}.bin": 5 * side**2 // 8 for side in (32, 64) for end in ("", "_area")
        },
        **{f"masks_{side}_soft.bin": 5 * side**2 for side in (32, 64)},
    }


def test_soft_masks_of_the_original_size_take_a_bit_for_each_pixel(tmp_path):
    data = write_dataset(tmp_path / "square", count=5, height=64, width=64)
    cache = built(data, mask_resize="soft")
    assert_same_pixels(cache)
    assert (cache.folder / "masks_64_soft.bin").stat().st_size == 5 * 64**2 // 8
    assert (cache.folder / "masks_32_soft.bin").stat().st_size == 5 * 32**2


def note_reads(monkeypatch):
    """Return a list that takes every image's path as it is read."""
    read, real = [], cache_module.read_image

    def noted(path, **depth):
        read.append(path)
        return real(path, **depth)

    monkeypatch.setattr(cache_module, "read_image", noted)
    return read


def test_images_are_read_once_for_all_sizes_and_never_again(data, monkeypatch):
    read = note_reads(monkeypatch)
    built(data)
    assert len(read) == 5
    built(data)
    built(data, sizes=[64])
    assert len(read) == 5
    built(data, sizes=[64, 96])
    assert len(read) == 10
    built(data, sizes=[64], clahe=False)
    assert len(read) == 15


def rewrite(path):
    cv2.imwrite(str(path), 255 - read_pixels(path))


def touch_back(path):
    """Change the pixels, keep the file size, and change the time by a nanosecond."""
    before = path.stat()
    cv2.imwrite(str(path), read_pixels(path)[::-1].copy(), _UNCOMPRESSED)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def swap(path):
    """Change one pixel, and keep the file's size and time."""
    before, pixels = path.stat(), read_pixels(path)
    pixels[40, 30] = 255 - pixels[40, 30]
    cv2.imwrite(str(path), pixels, _UNCOMPRESSED)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("change", [rewrite, touch_back, swap])
@pytest.mark.parametrize("folder", ["train_images", "train_mask"])
def test_a_changed_file_is_read_again(data, folder, change):
    path = str(data / folder / "image01.png")
    cv2.imwrite(path, read_pixels(path), _UNCOMPRESSED)
    before = built(data)
    change(data / folder / "image01.png")
    after = built(data)
    assert after.folder != before.folder
    assert_same_pixels(after)


def test_another_set_of_images_has_another_cache(data):
    before = built(data)
    (data / "train_images" / "image00.png").unlink()
    after = built(data)
    assert after.folder != before.folder
    assert_same_pixels(after)


def test_another_version_of_opencv_has_another_cache(data, monkeypatch):
    before = open_cache(data).folder
    monkeypatch.setattr(cv2, "__version__", "0.0")
    assert open_cache(data).folder != before


def test_an_unreadable_image_is_reported_and_no_incomplete_file_is_used(data):
    victim = data / "train_images" / "image04.png"
    complete = victim.read_bytes()
    victim.write_bytes(complete[:100])
    times = victim.stat()
    with pytest.raises(InputError, match=r"image04\.png: is truncated"):
        built(data)
    files = {path.name for path in open_cache(data).folder.iterdir()}
    assert not any(name.startswith(("images", ".images")) for name in files)
    victim.write_bytes(complete)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert_same_pixels(built(data))


def open_files(data):
    return FileSource(find_samples(data)[0], clahe=True)


@pytest.mark.parametrize("open_source", [open_cache, open_files])
def test_every_unreadable_mask_is_reported(data, open_source):
    for name in ("image00", "image03"):
        (data / "train_mask" / f"{name}.png").write_bytes(b"")
    cv2.imwrite(str(data / "train_mask" / "image04.png"), np.arange(9, dtype=np.uint8))
    with pytest.raises(InputError) as refused:
        open_source(data).mask_fractions()
    message = str(refused.value)
    for part in (
        "mask/image00.png: is truncated",
        "mask/image03.png: is truncated",
        "mask/image04.png: is no mask",
    ):
        assert part in message
    assert "image01" not in message
    assert "--exclude" not in message


def test_unusable_images_are_reported_the_first_twenty_by_name(tmp_path):
    data = write_dataset(tmp_path / "many", count=24)
    for i in range(1, 24):
        (data / "train_images" / f"image{i:02d}.png").write_bytes(b"")
    cv2.imwrite(str(data / "train_images" / "image00.png"), np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError) as refused:
        built(data)
    lines = str(refused.value).splitlines()
    assert "image00.png is 9x9 but its mask" in lines[0]
    assert [f"image{i:02d}.png: is truncated" in line for i, line in enumerate(lines[:20])][1:] == [
        True
    ] * 19
    assert lines[20] == "and 4 more"
    assert len(lines) == 22


def test_an_image_and_a_mask_of_different_sizes_are_reported(data):
    cv2.imwrite(str(data / "train_mask" / "image03.png"), np.zeros((50, 40), np.uint8))
    with pytest.raises(InputError, match=r"image03\.png is 60x72 but its mask .*40x50"):
        built(data)


def test_a_file_of_wrong_length_is_rewritten(data):
    cache = built(data)
    for name in ("images_32_clahe.bin", "masks_64.bin", "masks_original.bin"):
        path = cache.folder / name
        path.write_bytes(path.read_bytes()[:-1])
        assert_same_pixels(built(data))


def flip(content):
    return content[:-5] + bytes([content[-5] ^ 4]) + content[-4:]


def test_a_damaged_list_of_the_cache_is_written_again(data):
    for name in ("shapes.npy", "checksums.json"):
        path = built(data).folder / name
        content = path.read_bytes()
        for damaged in (b"", content[:20], content[:-9], b"[1, 2]", b"no list" + content):
            path.write_bytes(damaged)
            assert_same_pixels(built(data))
            assert path.read_bytes() == content
    path = built(data).folder / "shapes.npy"
    path.write_bytes(flip(path.read_bytes()))
    assert_same_pixels(built(data))


def test_a_file_whose_checksum_was_not_stored_is_written_again(data):
    """As after a power cut between the two."""
    cache = built(data)
    stored = json.loads(cache.checksums.path.read_bytes())
    for name in stored:
        others = {other: value for other, value in stored.items() if other != name}
        cache.checksums.path.write_text(json.dumps(others))
        built(data)
        assert json.loads(cache.checksums.path.read_bytes()) == stored


def test_the_checksums_are_those_of_the_whole_files(data):
    cache = built(data)
    files = {path.name: path for path in cache.folder.iterdir() if path.suffix in (".bin", ".npy")}
    stored = json.loads(cache.checksums.path.read_bytes())
    assert stored == {name: zlib.crc32(path.read_bytes()) for name, path in files.items()}
    assert len(stored) == 6
    assert cache.checksums.differing() == []
    for path in files.values():
        content = path.read_bytes()
        path.write_bytes(flip(content))
        assert cache.checksums.differing() == [path]
        path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["images_32_clahe.bin", "masks_32.bin", "masks_original.bin", "shapes.npy"]
)
def test_a_file_that_is_cut_after_planning_is_refused_when_pixels_are_opened(data, name):
    cache = built(data)
    content = (cache.folder / name).read_bytes()
    pixels = cache.pixels(["image01"], 32)
    for damage in (lambda path: path.write_bytes(content[:-1]), Path.unlink):
        damage(cache.folder / name)
        with pytest.raises(InputError, match=rf"{cache.folder}/{name}: .+Delete the folder"):
            cache.pixels(["image01"], 32)
        if name != "shapes.npy":
            with pytest.raises(InputError, match=rf"{name}: expected .+Delete the folder"):
                pickle.loads(pickle.dumps(pixels)).triple(0)
    assert_same_pixels(built(data))


def test_files_left_by_a_killed_process_are_removed(data):
    folder = open_cache(data).folder
    folder.mkdir(parents=True)
    leftover = folder / ".images_32_clahe.4711.bin"
    leftover.write_bytes(b"half")
    notes = folder / ".notes.2019.txt"
    notes.touch()
    assert_same_pixels(built(data))
    assert not leftover.exists()
    assert list(folder.glob(".*")) == [notes]


def test_a_process_killed_while_building_leaves_no_incomplete_file_in_use(data):
    """It is killed after its third image; the next one starts over."""
    script = (
        "import os, sys\n"
        "from datasets.sources import cache\n"
        "from datasets.siim import find_samples\n"
        "real, read = cache.read_image, []\n"
        "def read_image(path, **depth):\n"
        "    read.append(path)\n"
        "    return real(path, **depth) if len(read) < 4 else os._exit(9)\n"
        "cache.read_image = read_image\n"
        "root = sys.argv[1]\n"
        "cache.CacheSource(find_samples(root)[0], True, [32, 64], root + '/cache').build()\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(data)], cwd=REPOSITORY)
    assert killed.returncode == 9
    assert list(open_cache(data).folder.glob(".images_*"))
    assert_same_pixels(built(data))
    assert not list(open_cache(data).folder.glob(".images_*"))


def test_the_needed_space_is_printed_and_too_little_refused_before_writing(
    data, monkeypatch, capsys
):
    built(data)
    #                          images          masks            masks at their original size
    bytes_needed = 5 * (32 * 32 + 64 * 64 + 32 * 4 + 64 * 8 + 72 * 60 // 8)
    assert f"{bytes_needed / 1e9:.2f} GB" in capsys.readouterr().out
    shutil.rmtree(data / "cache")
    usage = shutil.disk_usage(data)
    for free, fits in ((bytes_needed, True), (bytes_needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        shutil.rmtree(data / "cache", ignore_errors=True)
        if fits:
            built(data)
        else:
            with pytest.raises(InputError, match=r"0\.00 GB free\. .*--cache_dir.*--cache false"):
                built(data)
            assert not [path for path in (data / "cache").rglob("*") if path.suffix]


def test_a_full_disk_is_reported(data, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "write_rows", full)
    with pytest.raises(InputError, match=r"No space left on device.*--cache_dir.*--cache false"):
        built(data)


def test_an_unwritable_folder_is_reported(data):
    (data / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"data/cache/.* cannot be written .*--cache_dir"):
        built(data)


def test_a_second_process_waits_and_uses_the_finished_cache(data, monkeypatch, capsys):
    cache = open_cache(data)
    cache.folder.mkdir(parents=True)
    lock = FileLock(cache.folder / "lock")
    lock.acquire()
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from datasets.sources.cache import CacheSource\n"
            "from datasets.siim import find_samples\n"
            "root = sys.argv[1]\n"
            "CacheSource(find_samples(root)[0], True, [32, 64], root + '/cache').build()\n",
            str(data),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert "waiting for another process" in other.stdout.readline()
    lock.release()
    read = note_reads(monkeypatch)
    assert other.wait(60) == 0
    assert_same_pixels(built(data))
    assert read == []


def test_a_worker_receives_paths_and_not_pixels(data):
    pixels = built(data).pixels(["image01", "image04"], 64)
    expected = pixels.triple(1)
    sent = pickle.dumps(pixels)
    assert len(sent) < 4000
    for ours, theirs in zip(pickle.loads(sent).triple(1), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_modifying_returned_pixels_does_not_change_the_cache(data):
    cache = built(data)
    pixels = cache.pixels(["image01"], 32)
    for array in pixels.triple(0):
        array[:] = 7
    assert_same_pixels(cache)
