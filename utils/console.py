"""Printing from rank 0 only."""

import argparse
import os

from tqdm import tqdm

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_main_process() -> bool:
    """Return whether this is rank 0, from the environment variables that launchers set."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


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
