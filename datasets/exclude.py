"""Lists of images to leave out."""

import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

from utils.errors import InputError
from utils.limits import LIST_BYTES, read_bytes

_COMMENT = re.compile(r"(^|\s)#.*")


def read_excluded(path: str | Path | None) -> frozenset[str]:
    """Read image ids, one a line; `#` at the start of a line or behind a space begins a comment.

    Args:
        path: the list; None excludes nothing.

    Raises:
        InputError: the file cannot be read as text.
    """
    if path is None:
        return frozenset()
    try:
        lines = read_bytes(path, LIST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--exclude {path}: cannot be read as a list of ids ({error})") from error
    return frozenset(_COMMENT.sub("", line).strip() for line in lines) - {""}


def check_excluded(excluded: Collection[str], known: Collection[str]) -> None:
    """Refuse a list that names an image which is not there.

    A warning would let a misspelt id pass, and with it the image that was not to be trained on.

    Raises:
        InputError: an id is not known; the nearest ones are named.
    """
    unknown = sorted(set(excluded) - set(known))
    if unknown:
        near = ", ".join(get_close_matches(unknown[0], known, cutoff=0.8))
        raise InputError(
            f"--exclude names {unknown[0]}, one of {len(unknown)} ids that are neither an image "
            "nor a mask here; " + (f"near it: {near}" if near else "no id is near it")
        )
