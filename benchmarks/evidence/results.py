"""The results of all parts, as JSON and as tables, written again after every row."""

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.evidence.isolated import Row
from utils.files import atomic_write, write_json

_LEGEND = (
    "Peak memory is that of the GPU's tensors; without a GPU, of the process so far, so it never "
    "falls from row to row. The peak arithmetic is that of the maker's data sheet, in bfloat16 and "
    "without sparsity, for float32 too."
)


@dataclass
class PartResult:
    """The result of one part.

    Attributes:
        name: what it measures.
        rows: its figures so far.
        seconds: how long it took.
        error: why it ended early; None if it did not.
        left_out: why it was not begun; None once it is.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    left_out: str | None = "not reached: the command has not come to it"


@dataclass
class Results:
    """What is written to a folder.

    Attributes:
        folder: holds gpu.json and gpu.md.
        machine: names and versions.
        parts: the results, in the order of their measurement.
    """

    folder: Path
    machine: Row
    parts: list[PartResult] = field(default_factory=list)

    def write(self) -> None:
        """Write both files."""
        content = {"machine": self.machine, "parts": [vars(part) for part in self.parts]}
        write_json(self.folder / "gpu.json", content)
        with atomic_write(self.folder / "gpu.md") as temporary:
            temporary.write_text(self.as_markdown(), encoding="utf-8")

    def as_markdown(self) -> str:
        """Return a table per part, and a list of those that were left out."""
        lines = ["# Measured on this machine", ""]
        lines += [f"- {name}: {_cell(value)}" for name, value in self.machine.items()]
        lines += ["", _LEGEND]
        for part in self.parts:
            if part.left_out is None:
                lines += ["", f"## {part.name} ({part.seconds:.0f} s)", ""]
                lines += _table(part.rows)
                if part.error:
                    lines += [*([""] if part.rows else []), f"**Not finished**: {part.error}"]
        left_out = [f"- {part.name}: {part.left_out}" for part in self.parts if part.left_out]
        lines += ["", "## Left out", "", *left_out] if left_out else []
        return "\n".join(lines) + "\n"


def as_line(row: Row) -> str:
    """Return the figures of a row as one line."""
    return ", ".join(f"{name} {_cell(value)}" for name, value in row.items())


def _table(rows: list[Row]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        return []
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    return [_line(columns), "|---" * len(columns) + "|", *map(_line, cells)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
