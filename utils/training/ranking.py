"""The best epochs of a stage."""

from collections.abc import Callable

from utils.config.settings import Config

_RANKS: dict[str, Callable[[dict], tuple[float, ...]]] = {
    "dice": lambda reached: (reached["dice"], -reached["loss"]),
    "loss": lambda reached: (-reached["loss"],),
    "last": lambda reached: (reached["epoch"],),
}
"""How epochs are ordered, by what --best_by names; the best is the largest."""


def keep_best(kept: list[dict], reached: dict, config: Config) -> list[dict]:
    """Return the `config.keep_best` best epochs, best first; of equals the earlier.

    Args:
        kept: the best epochs so far, best first.
        reached: the `epoch` behind them, and the `dice` and `loss` of its validation.
        config: how many to keep, and what the best are chosen by.
    """
    ordered = sorted([*kept, reached], key=_RANKS[config.best_by], reverse=True)
    return ordered[: config.keep_best]
