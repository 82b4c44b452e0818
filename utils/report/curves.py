"""The curves of a training, from the TensorBoard events of its folds."""

import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from markupsafe import Markup
from tensorboard.compat.proto.event_pb2 import Event

from utils.config.layout import fold_folders
from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.report.axes import Axis, Plot, fitting_axis
from utils.training.checkpoints import keep_best

SCALAR_BYTES = 4096
"""Longer records hold pictures, and are skipped."""
_FIGURES = (
    ("Loss", (("loss/train", "thin"), ("loss/val", ""))),
    ("Dice", (("dice/all", ""), ("dice/positive", "dashed"))),
    ("Learning rate", (("lr", ""),)),
)


class FoldCurves(NamedTuple):
    """What a fold logged.

    Attributes:
        values: value by epoch, counted from 0 over all stages, by TensorBoard tag.
        seconds: time that was spent training, without pauses between stop and resume.
        best: the best epoch of each stage, counted in the same way.
    """

    values: dict[str, dict[int, float]]
    seconds: float
    best: list[int]


def read_curves(folder: Path, config: Config) -> dict[int, FoldCurves]:
    """Read the events of every fold of a run; a fold without any is left out.

    Args:
        folder: the run's folder.
        config: its settings.
    """
    curves = {n: _read_fold(fold, config) for n, fold in fold_folders(folder).items()}
    return {number: fold for number, fold in curves.items() if any(fold.values.values())}


def draw_curves(curves: dict[int, FoldCurves], config: Config) -> list[tuple[str, Markup]]:
    """Plot loss, Dice and rate of all folds over the epochs, with the best epochs marked.

    Returns:
        Title and drawing of each plot; none without curves.
    """
    if not curves:
        return []
    epochs = sum(stage.epochs for stage in build_stages(config))
    return [(title, _draw(title, lines, curves, config, epochs)) for title, lines in _FIGURES]


def _draw(
    title: str,
    lines: tuple[tuple[str, str], ...],
    curves: dict[int, FoldCurves],
    config: Config,
    epochs: int,
) -> Markup:
    ticks = [tick for tick in fitting_axis("", (1, epochs)).ticks if 1 <= tick <= epochs]
    ticks = [tick for tick in ticks if tick == int(tick)]
    tags = [tag for tag, _ in lines]
    values = [v for fold in curves.values() for tag in tags for v in fold.values[tag].values()]
    x = Axis("epoch", 1, max(epochs, 2), ticks)
    plot = Plot(f"{title} over epochs", x, fitting_axis("", values, from_zero=True), 320, 250)
    start = 0
    for stage in build_stages(config):
        # Without a first line, as the left edge is one.
        plot.rule(max(start + 0.5, 1), "stage", f"stage {stage.number}", upright=True)
        start += stage.epochs
    for i, fold in enumerate(curves.values()):
        for tag, style in lines:
            points = [(epoch + 1, value) for epoch, value in sorted(fold.values[tag].items())]
            plot.line(points, f"fold{i % 6} {style}")
        main = fold.values[next(tag for tag, style in lines if not style)]
        marked = [(epoch + 1, main[epoch]) for epoch in fold.best if epoch in main]
        plot.dots(marked, f"fold{i % 6}", (f"best: epoch {e}, {v:.4g}" for e, v in marked))
    return plot.svg()


def _read_fold(folder: Path, config: Config) -> FoldCurves:
    values: dict[str, dict[int, float]] = defaultdict(dict)
    seconds = 0.0
    files = [list(_read_events(path)) for path in folder.glob("events.out.tfevents.*")]
    # Events of an epoch that was repeated after a resume come later, and replace those before.
    for events in sorted(filter(None, files), key=lambda events: events[0].wall_time):
        seconds += events[-1].wall_time - events[0].wall_time
        for event in events:
            for value in event.summary.value:
                values[value.tag][event.step] = value.simple_value
    return FoldCurves(values, seconds, _best_epochs(values, config))


def _best_epochs(values: dict[str, dict[int, float]], config: Config) -> list[int]:
    best, start = [], 0
    for stage in build_stages(config):
        kept: list[dict] = []
        for epoch in range(start, start + stage.epochs):
            if epoch in values["dice/all"] and epoch in values["loss/val"]:
                dice, loss = values["dice/all"][epoch], values["loss/val"][epoch]
                kept = keep_best(kept, {"epoch": epoch, "dice": dice, "loss": loss}, config)
        best += [kept[0]["epoch"]] if kept else []
        start += stage.epochs
    return best


def _read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a file but for pictures; the last one may be cut off."""
    with path.open("rb") as file:
        while (size := _next_size(file)) is not None:
            if size > SCALAR_BYTES:
                file.seek(size + 4, 1)
                continue
            data = file.read(size)
            file.read(4)
            if len(data) == size:
                yield Event.FromString(data)


def _next_size(file: BinaryIO) -> int | None:
    """Read the length of the next record, a number of 8 bytes and 4 of its checksum."""
    head = file.read(12)
    return struct.unpack("<Q", head[:8])[0] if len(head) == 12 else None
