"""Tables that say which image a file is: file names, image ids and, in some, a label."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.formats.annotations import ID_COLUMNS
from datasets.formats.finding import stem_of
from datasets.formats.ids import check_id
from utils.csv_files import read_columns
from utils.errors import InputError

FILE_COLUMNS = ("new_filename", "filename", "file_name")
LABEL_COLUMNS = ("has_pneumo", "target", "label")
_LABELS = {"0": False, "1": True, "": None}


class Named(NamedTuple):
    """A row of the table.

    Attributes:
        id: of the image.
        has_mask: whether the table says that the image has a mask; None if it does not say.
        source: file and row, for errors.
    """

    id: str
    has_mask: bool | None
    source: str


def read_names(path: Path) -> dict[str, Named]:
    """Read a table of images by the stem of their files.

    Raises:
        InputError: the table cannot be read, names a file or an id twice, or an id is not a plain
            file name, or a label is neither 0 nor 1.
    """
    names: dict[str, Named] = {}
    rows: dict[str, int] = {}
    columns = (FILE_COLUMNS, ID_COLUMNS)
    for line, (file, name, label) in read_columns(
        path, columns, "a csv of names", optional=(LABEL_COLUMNS,)
    ):
        stem, source = stem_of(file), f"{path} row {line}"
        if not stem:
            raise InputError(f"{source}: has no file name")
        if stem in names:
            raise InputError(f"{source}: names {file} again; keep one row per file")
        if label not in _LABELS:
            raise InputError(f"{source}: its label {label[:20]!r} is neither 0 nor 1")
        image = check_id(stem_of(name), source)
        if rows.setdefault(image, line) != line:
            raise InputError(
                f"{source}: gives the id {image} again, which is that of row {rows[image]}; keep "
                "one row per image"
            )
        names[stem] = Named(image, _LABELS[label], source)
    return names


def select_named(
    paths: Sequence[Path], names: Mapping[str, Named], table: Path
) -> tuple[list[Path], list[str]]:
    """Select the files that a table names.

    Args:
        paths: one file or more.
        names: the table.
        table: its file.

    Returns:
        Those files, and the stems of the others that the table names, sorted.

    Raises:
        InputError: it names none of them.
    """
    named = [path for path in paths if stem_of(path.name) in names]
    if not named:
        raise InputError(
            f"{table}: names none of the images, such as {paths[0].name}, but files such as "
            f"{min(names, default='none at all')}; check --names and --images"
        )
    return named, sorted(names.keys() - {stem_of(path.name) for path in named})


def row_of(names: Mapping[str, Named] | None, paths: Sequence[Path]) -> Named | None:
    """Return the row of an image by its files; None without a table."""
    return None if names is None else names[stem_of(paths[0].name)]


def files_by_id(ids: Iterable[str], names: Mapping[str, Named] | None) -> dict[str, list[Path]]:
    """Return the files that a table has for each id; without a table, there are none."""
    files: dict[str, list[Path]] = {name: [] for name in ids}
    for stem, named in (names or {}).items():
        if named.id in files:
            files[named.id].append(Path(stem))
    return files
