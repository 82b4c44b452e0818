"""Writes report.html: gathers everything about the runs, and fills in the page."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from lightning_fabric import Fabric
from markupsafe import Markup

from utils.console import print0
from utils.distributed import launch
from utils.errors import InputError, one_line
from utils.evaluation.scoring import Estimate
from utils.evaluation.subgroups import read_subgroups
from utils.files import write_output
from utils.inference.runs import WeightedRun, prediction_precision
from utils.report import CASES, REPORT
from utils.report.axes import BOTTOM, LEFT, RIGHT, TOP, Plot, share_axis
from utils.report.cases import KINDS, Areas, Case, Kind, Picture, choose_cases
from utils.report.comparison import compare
from utils.report.curves import draw_curves, read_curves
from utils.report.evidence import Evidence, read_evidence
from utils.report.explorer import pack_rules
from utils.report.facts import changed_settings, describe_run, summarise, tabulate_folds
from utils.report.networks import areas_of, draw_cases
from utils.report.quality import Outcome, examine
from utils.report.submission import SubmissionFiles, draw_submission, read_submission

_PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        pictures: show X-rays with their masks, which are patient data.
        cases: images of each kind.
        dataset_root: the folder of the runs' data set; None for that of each run's config.yaml.
        attributes: csv of attributes of the images, for subgroups.
        submission: a submission to score and show beside the one run.
    """

    pictures: bool = True
    cases: int = CASES
    dataset_root: str | Path | None = None
    attributes: Path | None = None
    submission: SubmissionFiles | None = None


class Cases(NamedTuple):
    """Cases by kind, and a note in their place if there are none."""

    kinds: list[tuple[Kind, list[Case]]]
    note: str


def try_report(folder: Path, options: ReportOptions, fabric: Fabric | None = None) -> None:
    """Write the report of a finished run into its folder; a failure is one line of warning."""
    path = folder / REPORT
    try:
        write_report([folder], path, options, fabric)
    except Exception as error:
        print0(f"warning: {path} was not written: {type(error).__name__}: {one_line(error)}")
    else:
        print0(f"report:  {path}")


def write_report(
    folders: Sequence[Path], path: Path, options: ReportOptions, fabric: Fabric | None = None
) -> bool:
    """Write a report of one run, or of several side by side, as one file that needs no other.

    What forbids pictures is printed.

    Args:
        folders: of the runs.
        path: the file.
        options: what to show.
        fabric: the device to draw cases with; None opens the best one when it is needed.

    Returns:
        Whether it shows X-rays.

    Raises:
        InputError: a run or a file that was asked for cannot be used.
    """
    evidences = [read_evidence(folder) for folder in folders]
    comparisons = [compare(evidences[0], other) for other in evidences[1:]]
    runs = [_describe(f"run{i}", e, options, fabric) for i, e in enumerate(evidences)]
    has_pictures = any(map(_has_pictures, runs))
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            runs=runs,
            comparisons=comparisons,
            has_pictures=has_pictures,
            style=Markup((_PAGE / "style.css").read_text(encoding="utf-8")),
            script=Markup((_PAGE / "script.js").read_text(encoding="utf-8")),
        )
    )
    with write_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return has_pictures


def _describe(
    key: str, evidence: Evidence, options: ReportOptions, fabric: Fabric | None
) -> dict[str, Any]:
    """Gather everything that the page shows of a run."""
    ids, curves = evidence.pooled.ids.tolist(), read_curves(evidence.folder, evidence.config)
    subgroups = read_subgroups(options.attributes, ids) if options.attributes else []
    has_presence = evidence.pooled.presence is not None
    scores, figures = examine(_outcome(evidence), subgroups, has_presence)

    def draw(indices: Sequence[int]) -> dict[int, Picture]:
        run = WeightedRun(evidence.folder, evidence.config, 1.0)
        precision = prediction_precision("auto", [run])
        device = fabric or launch("auto", 1, 1, precision)
        root = options.dataset_root or evidence.config.dataset_root
        return draw_cases(device, evidence, indices, root)

    return {
        "key": key,
        "name": evidence.name,
        "headline": summarise(evidence),
        "scores": scores,
        "figures": figures,
        "facts": describe_run(evidence, curves),
        "settings": changed_settings(evidence.config),
        "folds": tabulate_folds(evidence),
        "fold_numbers": list(curves),
        "curves": draw_curves(curves, evidence.config),
        "chosen": evidence.chosen,
        "rules": _rules(evidence),
        "canvas": Plot("Dice over threshold", share_axis("threshold"), share_axis("Dice")).svg(),
        "cases": _collect(areas_of(evidence), draw, options),
        "submission": _describe_submission(options),
    }


def _has_pictures(run: dict[str, Any]) -> bool:
    submission = run["submission"]
    return bool(run["cases"].kinds or (submission and submission["cases"].kinds))


def _outcome(evidence: Evidence) -> Outcome:
    pooled = evidence.pooled
    return Outcome(
        evidence.scores.dice,
        evidence.scores.predicted,
        evidence.probability,
        pooled.mask.sum(axis=1),
        pooled.all,
        pooled.mask,
        evidence.patients,
    )


def _rules(evidence: Evidence) -> dict:
    margins = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    return pack_rules(evidence.pooled, evidence.chosen.rule) | {"margins": margins}


def _describe_submission(options: ReportOptions) -> dict[str, Any] | None:
    if options.submission is None:
        return None
    scored = read_submission(options.submission)

    def draw(indices: Sequence[int]) -> dict[int, Picture]:
        return draw_submission(scored, indices)

    cases = _collect(scored.areas, draw, options)
    return {"name": scored.name, "summary": scored.summary, "cases": cases}


def _collect(
    areas: Areas, draw: Callable[[Sequence[int]], dict[int, Picture]], options: ReportOptions
) -> Cases:
    """Choose the cases and draw them; what forbids that becomes the note."""
    if not options.pictures:
        return Cases([], "Made without pictures.")
    chosen = choose_cases(areas, options.cases)
    try:
        pictures = draw([index for indices in chosen.values() for index in indices])
    except (InputError, OSError, RuntimeError) as error:
        note = f"No pictures: {one_line(error)}"
        print0(note)
        return Cases([], note)

    def case(i: int) -> Case:
        numbers = float(areas.dice[i]), int(areas.truth[i]), int(areas.predicted[i])
        return Case(str(areas.ids[i]), *numbers, pictures[i])

    return Cases([(kind, [case(i) for i in chosen[kind.name]]) for kind in KINDS], "")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "interval": _interval, "count": "{:,}".format}
    environment.globals["scale"] = _scale
    return environment


def _score(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _interval(value: Estimate) -> str:
    return "" if math.isnan(value.mean) else f"{value.low:.4f} to {value.high:.4f}"


def _scale(values: Sequence[float]) -> dict[str, Any]:
    """Return the ends of a scale that shows all of `values`, and their places on it in per cent."""
    margin = max(0.02, 0.4 * (max(values) - min(values)))
    low = max(0.0, math.floor(50 * (min(values) - margin)) / 50)
    high = min(1.0, math.ceil(50 * (max(values) + margin)) / 50)
    places = [round(float(100 * (value - low) / (high - low)), 2) for value in values]
    return {"low": low, "high": high, "places": places}
