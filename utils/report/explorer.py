"""The data of the sliders: per image, what any rule on the grid needs, as exact whole numbers."""

import base64
import gzip
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from utils.postprocessing.averages import count_passed
from utils.postprocessing.components import COMPONENT_LEVELS
from utils.postprocessing.grid import SEARCH_AREAS, SEARCH_LEVELS, Grid
from utils.postprocessing.histograms import Histograms, level_of, threshold_of
from utils.postprocessing.rule import PostProcess


def pack_rules(histograms: Histograms, chosen: PostProcess) -> dict:
    """Describe how every rule of the final search's grid does, with the chosen component filter.

    The page adds up what `PostProcess.dice` and `PostProcess.areas` give, from these numbers.

    Args:
        histograms: the out-of-fold histograms of N images.
        chosen: the chosen rule; its values are on the sliders although the grid may lack them.

    Returns:
        For JSON: the T `thresholds`, A `min_areas`, G `top_thresholds` and P
        `presence_thresholds` of the sliders, and the position of the `chosen` rule on each; and
        `data`, gzip in base64 of little-endian uint32 arrays `truth` [N], `area` [T,N] and `inside`
        [T,N] pixels, then uint8 arrays `areas_passed` [G,N], how many minimum areas an image
        reaches at each top threshold, and `presences_passed` [N].
    """
    levels = COMPONENT_LEVELS if chosen.filters_components else SEARCH_LEVELS
    thresholds = _values((threshold_of(level) for level in levels), chosen.threshold)
    tops = _values((threshold_of(level) for level in SEARCH_LEVELS), chosen.top_threshold)
    min_areas = _values(SEARCH_AREAS, chosen.min_area)
    presences = [0.0]
    if histograms.presence is not None:
        presences = _values(Grid().presence_thresholds, chosen.presence_threshold)
    measured = [replace(chosen, threshold=t).measure_ungated(histograms) for t in thresholds]
    gate_areas = histograms.gate_areas()
    reached = [count_passed(np.array(min_areas), gate_areas[:, level_of(top)]) for top in tops]
    present = [
        replace(chosen, min_area=0, presence_threshold=p).passes(histograms) for p in presences
    ]
    whole = (histograms.mask.sum(axis=1), *(a for a, _ in measured), *(b for _, b in measured))
    packed = np.stack(whole).astype("<u4").tobytes()
    packed += np.stack((*reached, np.sum(present, axis=0))).astype(np.uint8).tobytes()
    return {
        "images": len(histograms.ids),
        "thresholds": thresholds,
        "min_areas": min_areas,
        "top_thresholds": tops,
        "presence_thresholds": presences,
        "chosen": {
            "threshold": thresholds.index(chosen.threshold),
            "min_area": min_areas.index(chosen.min_area),
            "top_threshold": tops.index(chosen.top_threshold),
            "presence": presences.index(chosen.presence_threshold)
            if histograms.presence is not None
            else 0,
        },
        "data": base64.b64encode(gzip.compress(packed, mtime=0)).decode(),
    }


def _values(grid: Iterable[float], chosen: float) -> list[float]:
    return sorted({*grid, chosen})
