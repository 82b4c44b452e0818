"""Ids of images: one rule for every file of a folder, the same in preparing and in prediction.

The id of a DICOM is its SOPInstanceUID, that of any other file its stem. Where stems repeat over
folders, or tables name DICOMs by their files, --ids chooses another rule.
"""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from datasets.formats.finding import stem_of
from utils.errors import InputError
from utils.files import write_json
from utils.limits import SETTINGS_BYTES, read_bytes

IdKind = Literal["uid", "file", "path"]
ID_KINDS: tuple[IdKind, ...] = get_args(IdKind)
IDS_HELP = (
    "ids of the images: uid, the SOPInstanceUID of a DICOM and the stem of any other file; file, "
    "the stem of every file; path, the path below the folder of images with __ between its parts"
)
PATH_HINT = "if they are different images, name them by their folders with --ids path"
"""What to do about files with the same id."""
# File systems allow 255 bytes; a temporary name adds a dot, a process id and a suffix.
_MAX_BYTES = 200
_SEPARATOR = "__"
_TEST_ID = re.compile(r"ID_[0-9a-f]{9}")
"""Of the competition's second stage; all others are UIDs."""
_CHANNEL = "_0000"
"""How nnU-Net ends the names of images, but neither those of masks nor of predictions."""


@dataclass(frozen=True)
class IdRule:
    """How files get their ids.

    Attributes:
        kind: see `IDS_HELP`; uid takes the stem of a DICOM without a UID, too.
        root: the folder that paths begin from.
        ending: of every stem, which is not part of the ids.
    """

    kind: IdKind = "uid"
    root: Path = Path()
    ending: str = ""

    @classmethod
    def of_folder(cls, kind: IdKind, root: Path, paths: Iterable[Path]) -> "IdRule":
        """Return the rule for the files `paths` below `root`."""
        numbered = all(stem_of(path.name).endswith(_CHANNEL) for path in paths)
        return cls(kind, root, _CHANNEL if numbered else "")

    def name(self, path: Path) -> str:
        """Return the id that the name of a file gives."""
        stem = stem_of(path.name).removesuffix(self.ending)
        if self.kind != "path":
            return stem
        return _SEPARATOR.join([*path.relative_to(self.root).parts[:-1], stem])


def check_id(name: str, source: object) -> str:
    """Return an id that can be the name of a file.

    Args:
        name: the id.
        source: where it comes from, for errors.

    Raises:
        InputError: it is not a plain file name.
    """
    usable = name.isprintable() and not set(name) & set("/\\") and name == name.strip()
    if not name or name[0] == "." or not usable or len(name.encode()) > _MAX_BYTES:
        raise InputError(f"{source}: its image id {name[:_MAX_BYTES]!r} is not a plain file name")
    return name


def refuse_test_images(ids: Collection[str]) -> None:
    """Refuse to train on what the competition's page gives: the test images of its second stage.

    Called where no image has a mask; masks of these images, which others made, may be used.

    Raises:
        InputError: all images are test images, by their ids.
    """
    if ids and all(_TEST_ID.fullmatch(name) for name in ids):
        raise InputError(
            f"these {len(ids):,} images, such as {min(ids)}, are the test images of the "
            "competition's second stage, whose masks were never published. Its page gives no "
            "others today: the csv there is for training images, which have to come from elsewhere "
            "(docs/data.md). To predict these images, prepare them with --split test"
        )


def check_id_kind(folder: Path, split: str, kind: IdKind, images: Path) -> None:
    """Refuse to name images by another rule than those that a prepared split has already.

    The same image could otherwise be in the data set twice, under two ids.

    Args:
        folder: of all splits.
        split: the split.
        kind: the rule to use.
        images: folder of the split's images; those without a record are named by uid.

    Raises:
        InputError: the rules differ, or the record is damaged.
    """
    record = _ids_file(folder, split)
    has_images = images.is_dir() and any(images.iterdir())
    recorded = _read(record) or ("uid" if has_images else kind)
    if recorded != kind:
        raise InputError(
            f"{record.parent}: its {split} images are named by --ids {recorded}, and these would "
            f"be by --ids {kind}, so that an image could be there twice. Choose another --out, or "
            f"give --ids {recorded}"
        )


def record_id_kind(folder: Path, split: str, kind: IdKind) -> None:
    """Record the rule by which the images of a split are named, if it is not the usual one."""
    if kind != "uid":
        write_json(_ids_file(folder, split), {"ids": kind})


def _ids_file(folder: Path, split: str) -> Path:
    return folder / f"{split}_ids.json"


def _read(path: Path) -> str | None:
    try:
        kind = json.loads(read_bytes(path, SETTINGS_BYTES))["ids"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    # RecursionError: thousands of nested brackets.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as the rule of ids: {error!r}") from error
    if kind not in ID_KINDS:
        raise InputError(f"{path}: ids {kind!r}: must be one of {', '.join(ID_KINDS)}")
    return kind
