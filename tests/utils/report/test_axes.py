"""Plots have room for what is written beside them."""

import re

from utils.report.axes import Plot, decade_axis, share_axis

DIGIT = 6.5
"""Width of a digit of 11 pixels, in Chromium's widest common font."""


def test_a_long_label_at_the_right_end_is_not_cut_off():
    plot = Plot("sizes", decade_axis("pixels", 50, 100_000), share_axis("Dice"))
    labels = re.findall(r'x="([\d.]+)"[^>]*middle">([\d,]+)<', plot.svg())
    assert labels[-1][1] == "100,000"
    for x, text in labels:
        assert float(x) + len(text) * DIGIT / 2 <= plot.width
