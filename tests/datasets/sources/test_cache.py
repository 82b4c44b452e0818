"""The cache: the pixels of the files, never stale, never half made, shared by all."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock

from datasets.siim import find_samples
from datasets.sources import cache as cache_module
from datasets.sources.cache import CacheSource
from datasets.sources.files import FileSource
from tests.helpers.tiny import write_dataset
from utils.errors import InputError

REPOSITORY = Path(__file__).parents[3]
_UNCOMPRESSED = (cv2.IMWRITE_PNG_COMPRESSION, 0)


@pytest.fixture
def data(tmp_path):
    """A data set that a test may spoil."""
    return write_dataset(tmp_path / "data", count=5)


def open_cache(data, sizes=(32, 64), clahe=True, root=None):
    return CacheSource(find_samples(data)[0], clahe, sizes, root or data / "cache")


def built(data, **settings):
    cache = open_cache(data, **settings)
    cache.build()
    return cache


def assert_same_pixels(cache, clahe=True):
    files = FileSource(cache.samples, clahe)
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
def test_pixels_are_those_of_the_files(data, clahe):
    """Also where images differ in size and their pixels do not fill whole bytes."""
    odd = np.zeros((51, 37), np.uint8)
    odd[-1, -3:] = 255
    cv2.imwrite(str(data / "train_mask" / "image02.png"), odd)
    cv2.imwrite(str(data / "train_images" / "image02.png"), odd // 2)
    assert_same_pixels(built(data, clahe=clahe), clahe)
    assert_same_pixels(built(data, clahe=clahe, sizes=[50]), clahe)


def test_images_are_read_once_for_all_sizes_and_never_again(data, monkeypatch):
    read = []
    real = cache_module.read_image
    monkeypatch.setattr(cache_module, "read_image", lambda path: read.append(path) or real(path))
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
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), 255 - pixels)


def touch_back(path):
    """Change the pixels but not the size, and the time by a nanosecond."""
    before = path.stat()
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), pixels[::-1].copy(), _UNCOMPRESSED)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [rewrite, touch_back])
@pytest.mark.parametrize("folder", ["train_images", "train_mask"])
def test_a_changed_file_is_read_anew(data, folder, change):
    path = str(data / folder / "image01.png")
    cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_UNCHANGED), _UNCOMPRESSED)
    before = built(data)
    change(data / folder / "image01.png")
    after = built(data)
    assert after.folder != before.folder
    assert_same_pixels(after)


def test_another_set_of_images_is_another_cache(data):
    before = built(data)
    (data / "train_images" / "image00.png").unlink()
    after = built(data)
    assert after.folder != before.folder
    assert_same_pixels(after)


def test_a_library_that_computes_otherwise_is_another_cache(data, monkeypatch):
    before = open_cache(data).folder
    monkeypatch.setattr(cv2, "__version__", "0.0")
    assert open_cache(data).folder != before


def test_an_image_that_cannot_be_read_is_named_and_nothing_half_made_is_used(data):
    victim = data / "train_images" / "image04.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100])
    times = victim.stat()
    with pytest.raises(InputError, match=r"image04\.png: is cut short"):
        built(data)
    files = {path.name for path in open_cache(data).folder.iterdir()}
    assert not any(name.startswith(("images", ".images")) for name in files)
    victim.write_bytes(whole)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert_same_pixels(built(data))


def open_files(data):
    return FileSource(find_samples(data)[0], clahe=True)


@pytest.mark.parametrize("open_source", [open_cache, open_files])
def test_every_mask_that_cannot_be_read_is_named(data, open_source):
    for name in ("image00", "image03"):
        (data / "train_mask" / f"{name}.png").write_bytes(b"")
    cv2.imwrite(str(data / "train_mask" / "image04.png"), np.arange(9, dtype=np.uint8))
    with pytest.raises(InputError) as refused:
        open_source(data).mask_fractions()
    message = str(refused.value)
    for part in (
        "mask/image00.png: is cut",
        "mask/image03.png: is cut",
        "mask/image04.png: is not",
    ):
        assert part in message
    assert "image01" not in message
    assert "--exclude LIST" in message


def test_every_image_that_cannot_be_used_is_named_twenty_of_them_by_name(tmp_path):
    data = write_dataset(tmp_path / "many", count=24)
    for i in range(1, 24):
        (data / "train_images" / f"image{i:02d}.png").write_bytes(b"")
    cv2.imwrite(str(data / "train_images" / "image00.png"), np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError) as refused:
        built(data)
    lines = str(refused.value).splitlines()
    assert "image00.png is 9x9 but its mask" in lines[0]
    assert [f"image{i:02d}.png: is cut" in line for i, line in enumerate(lines[:20])][1:] == [
        True
    ] * 19
    assert lines[20] == "and 4 more"
    assert len(lines) == 22


def test_a_pair_of_other_sizes_is_named(data):
    cv2.imwrite(str(data / "train_mask" / "image03.png"), np.zeros((50, 40), np.uint8))
    with pytest.raises(InputError, match=r"image03\.png is 60x72 but its mask .*40x50"):
        built(data)


def test_a_file_of_another_length_is_made_again(data):
    cache = built(data)
    for name in ("images_32_clahe.bin", "masks_64.bin", "masks_original.bin"):
        path = cache.folder / name
        path.write_bytes(path.read_bytes()[:-1])
        assert_same_pixels(built(data))


def test_what_a_killed_process_left_is_removed(data):
    folder = open_cache(data).folder
    folder.mkdir(parents=True)
    leftover = folder / ".images_32_clahe.4711.bin"
    leftover.write_bytes(b"half")
    assert_same_pixels(built(data))
    assert not leftover.exists()
    assert not list(folder.glob(".*"))


def test_a_process_that_is_killed_while_it_builds_leaves_nothing_in_use(data):
    """It ends hard after its third image; the next one starts over."""
    script = (
        "import os, sys\n"
        "from datasets.sources import cache\n"
        "from datasets.siim import find_samples\n"
        "real, read = cache.read_image, []\n"
        "def read_image(path):\n"
        "    read.append(path)\n"
        "    return real(path) if len(read) < 4 else os._exit(9)\n"
        "cache.read_image = read_image\n"
        "root = sys.argv[1]\n"
        "cache.CacheSource(find_samples(root)[0], True, [32, 64], root + '/cache').build()\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(data)], cwd=REPOSITORY)
    assert killed.returncode == 9
    assert list(open_cache(data).folder.glob(".images_*"))
    assert_same_pixels(built(data))
    assert not list(open_cache(data).folder.glob(".images_*"))


def test_the_space_is_told_and_too_little_refused_before_anything_is_written(
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


def test_a_full_disk_is_told(data, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "write_rows", full)
    with pytest.raises(InputError, match=r"No space left on device.*--cache_dir.*--cache false"):
        built(data)


def test_a_folder_that_cannot_be_written_is_told(data):
    (data / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"data/cache/.* cannot be written .*--cache_dir"):
        built(data)


def test_a_second_process_waits_and_finds_it_made(data, monkeypatch, capsys):
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
    assert "waiting for another process" in other.stdout.readline()
    lock.release()
    read = []
    real = cache_module.read_image
    monkeypatch.setattr(cache_module, "read_image", lambda path: read.append(path) or real(path))
    assert other.wait(60) == 0
    assert_same_pixels(built(data))
    assert read == []


def test_a_worker_is_handed_names_and_not_pixels(data):
    pixels = built(data).pixels(["image01", "image04"], 64)
    expected = pixels.triple(1)
    sent = pickle.dumps(pixels)
    assert len(sent) < 4000
    for ours, theirs in zip(pickle.loads(sent).triple(1), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_changing_what_was_read_does_not_change_the_cache(data):
    cache = built(data)
    pixels = cache.pixels(["image01"], 32)
    for array in pixels.triple(0):
        array[:] = 7
    assert_same_pixels(cache)
