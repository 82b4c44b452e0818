"""Which of the processes that train together this one is."""

import os

from tqdm import tqdm

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_main_process() -> bool:
    """Tell whether this is the first process of all, from what its launcher set."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def say(text: str) -> None:
    """Print a line beside any progress bar, from the first process only."""
    if is_main_process():
        tqdm.write(text)
