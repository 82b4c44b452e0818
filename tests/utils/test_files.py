"""Files that are either complete or absent."""

import errno
import json
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.files import (
    atomic_write,
    check_output,
    check_writable,
    remove_temporaries,
    write_json,
    write_output,
)


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # elsewhere, renaming could mean copying
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_only_the_old_file(tmp_path, interruption):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_only_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space"), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("flush", [True, False])
def test_a_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch, flush):
    happened, real = [], os.replace

    def rename(*names):
        happened.append("renamed")
        real(*names)

    monkeypatch.setattr(os, "fsync", lambda _: happened.append("flushed"))
    monkeypatch.setattr(os, "replace", rename)
    with atomic_write(tmp_path / "a.txt", flush=flush) as temporary:
        temporary.write_text("new")
    assert happened == ["flushed"] * flush + ["renamed"]


def test_a_file_that_was_never_written_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("error", [FileNotFoundError, NotADirectoryError])
def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path, error):
    (tmp_path / "file").touch()
    path = tmp_path / ("nowhere" if error is FileNotFoundError else "file") / "a.json"
    with pytest.raises(error) as raised:
        write_json(path, {})
    assert raised.value.filename == str(path)


def test_a_read_only_folder_is_reported_although_the_temporary_file_cannot_be_removed(
    tmp_path, monkeypatch
):
    """Linux refuses to remove any file there, even one that does not exist."""

    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as raised:
        write_json(tmp_path / "a.json", {})
    assert raised.value.filename == str(tmp_path / "a.json")


def test_a_folder_that_can_be_created_is_writable(tmp_path):
    check_writable(tmp_path)
    check_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/run: cannot be written .*file is not a folder"):
        check_writable(tmp_path / "file" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=rf"a/run: cannot be written to, because {tmp_path} is r"):
        check_writable(tmp_path / "a" / "run")


def test_file_permissions_are_the_default_ones(tmp_path):
    (tmp_path / "plain.txt").write_text("")
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain.txt", "a.txt")}
    assert len(modes) == 1


def test_json_is_strict_and_has_no_nan(tmp_path):
    content = {"a": [1, 2.5, float("nan")], "b": {"c": None, "d": (float("nan"), True)}, "e": "ö"}
    write_json(tmp_path / "a.json", content)

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    expected = {"a": [1, 2.5, None], "b": {"c": None, "d": [None, True]}, "e": "ö"}
    assert json.loads(text, parse_constant=refuse) == expected
    assert text.endswith("}\n")


def test_invalid_json_content_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"old": True})
    for unusable in (object(), float("inf")):
        with pytest.raises((TypeError, ValueError)):
            write_json(tmp_path / "a.json", {"new": unusable})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": True}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("links", [True, False])
def test_an_existing_file_can_be_protected(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise PermissionError("no second names here")

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "config.yaml"
    with atomic_write(path, replace=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), atomic_write(path, replace=False) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exists", [True, False])
def test_an_output_is_written_through_links_that_stay(tmp_path, exists):
    (tmp_path / "target").mkdir()
    target, link, second = (tmp_path / name for name in ("target/a.txt", "link.txt", "second.txt"))
    if exists:
        target.write_text("old")
    link.symlink_to("target/a.txt")
    second.symlink_to(link)
    check_output(second)
    with write_output(second) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent
        assert target.exists() == exists
    assert link.is_symlink()
    assert second.is_symlink()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_of_our_own_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    """Such as a checkpoint that a user linked from another run."""
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("of another run")
    link.symlink_to(target)
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert not link.is_symlink()
    assert (target.read_text(), link.read_text()) == ("of another run", "new")


def write_all(path, write=write_output, text="content"):
    """Write a text; the pipe at `path`, if it is one, is read at the same time."""
    with write(path) as temporary:
        assert temporary.suffix == path.suffix
        temporary.write_text(text)


@pytest.mark.parametrize("through_link", [False, True])
def test_a_pipe_receives_the_complete_content_and_stays(tmp_path, through_link):
    pipe = path = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    if through_link:
        path = tmp_path / "link.csv"
        path.symlink_to(pipe)
    check_output(path)
    with ThreadPoolExecutor(1) as reader:
        descriptor = os.open(pipe, os.O_RDWR)  # as long as it is open, no other opening waits
        read = reader.submit(os.read, descriptor, 100)
        write_all(path)
        os.write(descriptor, b"end")  # ends the reading if nothing was written
        assert read.result().removesuffix(b"end") == b"content"
        os.close(descriptor)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert path.is_symlink() == through_link
    assert {entry.name for entry in tmp_path.iterdir()} == {"pipe.csv", path.name}


def test_a_character_device_receives_the_content_and_stays():
    master, slave = os.openpty()
    try:
        device = os.ttyname(slave)
        write_json(device, [1], write_output)
        assert json.loads(os.read(master, 100)) == [1]
        assert os.ttyname(slave) == device
    finally:
        os.close(master)
        os.close(slave)


def test_a_failure_sends_nothing_to_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)

    def write_and_fail():
        with write_output(tmp_path / "pipe") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    with pytest.raises(BlockingIOError):
        os.read(descriptor, 1)
    os.close(descriptor)


@pytest.mark.parametrize("write", [atomic_write, write_output])
@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_not_a_file_is_refused_before_anything_is_written(tmp_path, write, is_folder):
    path = tmp_path / "a"
    with socket.socket(socket.AF_UNIX) as server:
        path.mkdir() if is_folder else server.bind(str(path))
        before = path.lstat()
        with pytest.raises(OSError, match=str(path)):
            write_all(path, write)
        with pytest.raises(OSError, match=str(path)):
            check_output(path)
        assert path.lstat() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_itself_is_refused(tmp_path):
    link = tmp_path / "a.txt"
    link.symlink_to(link)
    with pytest.raises(OSError, match="symbolic links"):
        write_all(link)
    assert link.is_symlink()


def test_a_pipe_in_a_folder_of_our_own_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(OSError, match="not a file but a device"):
        write_json(tmp_path / "a.json", [])
    assert stat.S_ISFIFO((tmp_path / "a.json").stat().st_mode)


def test_only_temporary_files_of_our_own_are_removed(tmp_path):
    kept = [".a.txt", "a.12.txt", ".b.12.txt", ".a.twelve.txt", ".a.12.txt.old", ".a.12.bak", ".a"]
    for name in (*kept, ".a.12.txt", ".a.3.txt", ".bare.12"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path, lambda name: name in ("a.txt", "bare"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
