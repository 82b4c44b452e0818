"""Damaged and random files: each reader returns a result or raises InputError, nothing else."""

import json
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.robustness.readers import READERS, Reader
from utils.errors import InputError

TEXTS = ("csv", "folds", "patients", "scores", "list", "rle", "json", "yaml")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["threshold", "min_area", "top_threshold", "lr", "folds", "run_name", "mode"]
)
CELLS = st.text(st.sampled_from("ab01-. \"'\t\\é\0"), max_size=6)
HEADERS = {
    "csv": "ImageId,EncodedPixels",
    "folds": "ImageId,fold,positive,PatientId",
    "patients": "ImageId,PatientId",
    "scores": "ImageId,probability,area",
}


def read_or_refuse(name: str, data: bytes) -> None:
    with TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder, READERS[name].name)
        path.write_bytes(data)
        with suppress(InputError):
            READERS[name].read(path)


@pytest.mark.parametrize("name", READERS)
def test_intact_files_are_read(name, tmp_path):
    for seed in READERS[name].seeds():
        (tmp_path / READERS[name].name).write_bytes(READERS[name].wrap(seed))
        READERS[name].read(tmp_path / READERS[name].name)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100)
@given(number=st.integers(0, 2**63))
def test_a_damaged_file_is_read_or_refused(name, number):
    reader = READERS[name]
    read_or_refuse(name, fuzz.damaged(reader, reader.seeds(), seed=1, number=number))


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=50)
@given(text=st.text())
def test_any_text_is_read_or_refused(name, text):
    read_or_refuse(name, text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", HEADERS)
@settings(max_examples=100)
@given(rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=4))
def test_any_table_is_read_or_refused(name, rows):
    text = "\n".join([HEADERS[name], *(",".join(cells) for cells in rows)])
    read_or_refuse(name, text.encode())


@pytest.mark.parametrize("name", ["json", "yaml"])
@settings(max_examples=60)
@given(content=PLAIN | st.dictionaries(NAMES, PLAIN))
def test_any_settings_are_read_or_refused(name, content):
    read_or_refuse(name, json.dumps(content).encode())


def test_damage_depends_only_on_its_number():
    seeds = READERS["csv"].seeds()
    files = [fuzz.damaged(READERS["csv"], seeds, 0, number) for number in range(50)]
    assert files == [fuzz.damaged(READERS["csv"], seeds, 0, number) for number in range(50)]
    assert len(set(files)) > 40


def test_a_crash_is_counted_and_can_be_repeated(monkeypatch, capsys):
    """The reader crashes if the first byte changed, as it did in some of the files."""

    def read(path):
        data = path.read_bytes()
        if data[:1] == b"a":
            return data
        if data:
            raise KeyError(data)
        raise InputError("empty")

    monkeypatch.setitem(READERS, "csv", Reader(read, lambda: [b"abc"], "a.csv", 9))
    result = fuzz.fuzz("csv", examples=300, seed=0)
    assert sum(result.counts.values()) == 300
    assert min(result.counts[kind] for kind in ("read", "refused", "crashed")) > 10
    number = int(result.crashes[0].split("--only ")[1].split(":")[0])
    with pytest.raises(KeyError):
        fuzz.main(["--readers", "csv", "--only", str(number)])


def test_the_exit_code_reports_crashes(monkeypatch):
    for crashed, code in ((0, 0), (1, 1)):
        result = fuzz.Result(fuzz.Counter(read=1, crashed=crashed), [], 0.1, 0, 0.1)
        monkeypatch.setattr(fuzz, "_fuzz_in_process", lambda *_, result=result: result)
        assert fuzz.main(["--readers", "csv,json"]) == code


def test_an_unknown_reader_is_refused():
    assert fuzz.main(["--readers", "tea"]) == 2
