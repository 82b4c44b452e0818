"""The figure of the search shows the score of the chosen rule."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.helpers.makers import measured
from utils.inference.out_of_fold import collect_histograms, measure_prediction
from utils.postprocessing import plots
from utils.postprocessing.grid import SEARCH_AREAS, SEARCH_LEVELS
from utils.postprocessing.histograms import threshold_of
from utils.postprocessing.rule import PostProcess, score


@pytest.fixture
def figures(monkeypatch):
    made = []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(plots, "Figure", Kept)
    return made


@pytest.mark.parametrize(
    "rule",
    [
        PostProcess(threshold_of(127), 0, 0.5),
        PostProcess(threshold_of(127), 0, 0.5, presence_threshold=0.3),
        PostProcess(threshold_of(127), 0, 0.25, 0.3, 3, 0.7),
    ],
)
def test_curve_and_heat_map_contain_the_score_of_the_rule(rule, figures, tmp_path):
    histograms = measured(5, gate=True, presence=True)
    assert plots.draw_threshold(histograms, rule, tmp_path / "it.png").dtype == np.uint8
    left, right = figures[0].axes[:2]
    reached = score(histograms, rule)
    for label, dice in (
        ("all images", reached.dice),
        ("images with a mask", reached.dice_positive),
    ):
        (line,) = (line for line in left.lines if line.get_label() == label)
        x, y = line.get_data()
        assert y[np.abs(np.array(x) - rule.threshold).argmin()] == pytest.approx(dice)
    (marker,) = right.lines
    assert marker.get_xdata()[0] == rule.threshold
    values, areas = right.collections[0].get_array(), SEARCH_AREAS
    columns = [threshold_of(level) for level in SEARCH_LEVELS]
    if rule.filters_components:
        columns = list(left.lines[0].get_xdata())
    assert values.shape == (len(areas), len(columns))
    cell = values[marker.get_ydata()[0], columns.index(rule.threshold)]
    assert cell == pytest.approx(reached.dice)


def test_the_heat_map_counts_the_pixels_of_the_gate_map(figures, tmp_path):
    """Same probability maps; gate areas of 3,600 pixels in the first image and 0 in the second."""
    levels, mask = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    levels[:60, :60], mask[:60, :60] = 200, 1
    rows = [
        measure_prediction("a", levels, mask, gate=levels),
        measure_prediction("b", levels, mask * 0, gate=levels * 0),
    ]
    histograms = collect_histograms(["a", "b"], rows)
    plots.draw_threshold(histograms, PostProcess(threshold_of(127), 64, 0.5), tmp_path / "it.png")
    values = figures[0].axes[1].collections[0].get_array()
    column = values[:, SEARCH_LEVELS.index(127)]
    expected = [0.5 if area == 0 or area > 3600 else 1.0 for area in SEARCH_AREAS]
    assert column.tolist() == pytest.approx(expected)
