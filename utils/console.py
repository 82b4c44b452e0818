"""Printing from rank 0 only."""

import argparse
import io
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_DIGITS = 20
"""More digits than any limit has; Python refuses to convert some thousands."""
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_main_process() -> bool:
    """Return whether this is rank 0, from the environment variables that launchers set."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def escape_unprintable() -> None:
    """Make stdout print characters that it cannot encode as escapes, as stderr does.

    A file name may hold bytes that are no text, which a strict UTF-8 stdout refuses to print.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print0(text: str) -> None:
    """Print a line from rank 0, without breaking progress bars."""
    if is_main_process():
        tqdm.write(text)


def open_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return a command's parser; its help keeps the line breaks of the description."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return an argparse type for a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        number = text.removeprefix("-")
        if not (number.isdecimal() and len(number) < _DIGITS and low <= int(text) <= high):
            raise ValueError(f"{text!r} is not a whole number from {low:,} to {high:,}")
        return int(text)

    return argument_type(parse)


def argument_type(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Turn a function that raises ValueError into an argparse type that shows its message."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
