"""What prepare did, to print and, where it is long, to list in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.annotations.kinds import Changes
from datasets.tools.convert import Outcome
from utils.files import atomic_write

MAX_PRINTED = 20


class Report(NamedTuple):
    """Results of all images.

    Attributes:
        outcomes: of the images that were converted or refused while converting.
        unannotated: ids of images without an annotation.
        refused: why images cannot be used.
        notes: further lines to print.
    """

    outcomes: Sequence[Outcome]
    unannotated: Sequence[str]
    refused: Sequence[str]
    notes: Sequence[str]

    def print(self, images: Path, lists: Path, has_masks: bool, seconds: float) -> None:
        """Print the report.

        Args:
            images: the folder that the images were written to.
            lists: start of the paths of lists, such as OUT/train.
            has_masks: whether the split has masks.
            seconds: that it took.
        """
        done = [outcome for outcome in self.outcomes if not outcome.refused]
        written = sum(outcome.written for outcome in done)
        positive = sum(outcome.positive for outcome in done)
        copies = sum(outcome.copies for outcome in done)
        _list("unannotated, left out", self.unannotated, lists)
        _list("refused", self.refused, lists)
        if copies:
            print(f"{copies} files skipped: same id and pixels as another file")
        for note in (*self.notes, *Changes.total(outcome.changes for outcome in done).describe()):
            print(note)
        print(
            f"{images}: {written} images written, {len(done) - written} up to date"
            + (f", {positive} positive" if has_masks else "")
            + f"; {len(self.unannotated)} unannotated, {len(self.refused)} refused; "
            f"{seconds:.1f} s, {len(done) / seconds:.0f} images/s"
        )


def _list(what: str, lines: Sequence[str], start: Path) -> None:
    path = start.with_name(f"{start.name}_{what.partition(',')[0]}.txt")
    path.unlink(missing_ok=True)
    if len(lines) > MAX_PRINTED:
        with atomic_write(path, flush=False) as temporary:
            temporary.write_text("\n".join(lines) + "\n", "utf-8", errors="backslashreplace")
        print(f"{len(lines)} {what}: listed in {path}; the first: {lines[0]}")
    else:
        for line in lines:
            print(f"{what}: {line}")
