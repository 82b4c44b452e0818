"""TensorBoard's events of a run as a whole: its settings, final scores and threshold.png.

They lie in the run's folder, those of the folds below it. TensorBoard's HPARAMS tab then has one
row per run, to compare runs by settings and scores.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import get_type_hints

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from utils.config.command_line import load_config
from utils.config.settings import MAY_CHANGE, Config

_WAYS = ("cross_fitted", "pooled")
_SCORES = ("dice", "dice_positive", "empty_kept")
_BASELINE, _AUC = "score/all_empty_dice", "score/auc"
_METRICS = (*(f"score/{way}_{name}" for way in _WAYS for name in _SCORES), _BASELINE, _AUC)
"""Names of all scores. Every run declares all of them, as TensorBoard shows those of the first."""


def write_run_events(folder: Path, thresholds: dict, picture: np.ndarray) -> None:
    """Replace the events of a run as a whole.

    Args:
        folder: the run's folder. Without a config.yaml, as in that of a blend, no settings are
            written.
        thresholds: the content of threshold.json.
        picture: threshold.png, [H,W,3] uint8.
    """
    earlier = list(folder.glob("events.out.tfevents.*"))
    config = folder / "config.yaml"
    with SummaryWriter(str(folder)) as events:
        if config.exists():
            settings = list_settings(load_config(config))
            for summary in _describe(settings):
                events.file_writer.add_summary(summary)
        for name, score in list_scores(thresholds).items():
            events.add_scalar(name, score)
        events.add_image("threshold", picture, dataformats="HWC")
    # TensorBoard would show a run twice that it finds in two files.
    for path in earlier:
        path.unlink(missing_ok=True)


def list_settings(config: Config) -> dict[str, int | float | str]:
    """Return the settings that determine the result of a run, each of one type in all runs.

    TensorBoard takes names and types of settings from the first run. Those that may be of several
    types, or None, are therefore text.
    """
    kinds = get_type_hints(Config)
    return {
        name: value if _is_number(kinds[name]) else _as_text(value)
        for name, value in asdict(config).items()
        if name not in MAY_CHANGE
    }


def list_scores(thresholds: dict) -> dict[str, float]:
    """Return the scores of a run by their names in TensorBoard, without those that are undefined.

    Args:
        thresholds: the content of threshold.json.
    """
    scores = {
        f"score/{way}_{name}": thresholds[way][name]
        for way in _WAYS
        for name in _SCORES
        if thresholds[way] is not None
    }
    scores[_BASELINE] = thresholds["pooled"]["baseline"]
    scores[_AUC] = thresholds["auc"]["value"]
    return {name: score for name, score in scores.items() if not math.isnan(score)}


def _describe(settings: dict[str, int | float | str]) -> list[Summary]:
    """Describe the row of a run in the HPARAMS tab: its columns, its settings, and its end."""
    columns, start, end = hparams(settings, dict.fromkeys(_METRICS))
    defaults, stored = list_settings(Config()), columns.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(stored.content)
    for column in content.experiment.hparam_infos:
        # Such columns come first, and only the first few are shown unasked.
        column.differs = settings[column.name] != defaults[column.name]
    stored.content = content.SerializeToString()
    return [columns, start, end]


def _is_number(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, int | float) and kind is not bool


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "default" if value is None else str(value)
