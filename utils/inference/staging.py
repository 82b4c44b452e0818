"""Folders of results that appear only once all of their files are complete."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from utils.files import check_replaceable, link_or_copy


class StagedFolders:
    """Hidden folders to write results to; `publish` moves the files to their targets.

    Folders inside them are made in the targets too.

    Several processes may write at the same time. Leaving the context removes unpublished files.

    Args:
        targets: the folders, None for results that are not wanted.
        suffix: makes the hidden folders unique to this command; the same in every process.
        is_owner: whether this process publishes and cleans up.
        replace: overwrite existing files in the targets.

    Attributes:
        hidden: the hidden folder of each target; None where the target is.
    """

    def __init__(
        self, targets: Iterable[Path | None], suffix: str, is_owner: bool, replace: bool = True
    ):
        targets = list(targets)
        self.hidden = [None if target is None else _hidden(target, suffix) for target in targets]
        self._moves = [
            (hidden, target)
            for hidden, target in zip(self.hidden, targets, strict=True)
            if hidden is not None and target is not None
        ]
        self._is_owner = is_owner
        self._replace = replace

    def __enter__(self) -> Self:
        for hidden, _ in self._moves:
            hidden.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._is_owner:
            for hidden, _ in self._moves:
                shutil.rmtree(hidden, ignore_errors=True)

    def publish(self) -> None:
        """Move all files to their target folders.

        Raises:
            FileExistsError: a file exists and may not be replaced.
        """
        for hidden, target in self._moves:
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted(hidden.rglob("*")):
                place = target / path.relative_to(hidden)
                if path.is_dir():
                    place.mkdir(exist_ok=True)
                    continue
                check_replaceable(place)
                if self._replace:
                    os.replace(path, place)
                else:
                    link_or_copy(path, place)


def existing_folder(path: Path) -> Path:
    """Return the closest parent folder of `path` that exists."""
    return next(folder for folder in path.resolve().parents if folder.is_dir())


def _hidden(folder: Path, suffix: str) -> Path:
    # In the target's parent if it exists: os.replace works only within a file system.
    return existing_folder(folder) / f".{folder.resolve().name}.{suffix}"
