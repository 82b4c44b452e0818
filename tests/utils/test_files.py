"""Files that are either complete or absent."""

import json
import os
import stat

import pytest

from utils.files import atomic_write, write_json


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
