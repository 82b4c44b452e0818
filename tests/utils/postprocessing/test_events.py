"""The events of whole runs, as TensorBoard's own HPARAMS plugin reads them."""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.data.provider import ListHyperparametersResult
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from utils.config.settings import MAY_CHANGE, Config
from utils.postprocessing.events import list_scores, write_run_events

PICTURE = np.zeros((4, 5, 3), np.uint8)


def thresholds(dice: float = 0.8, folds: int = 2) -> dict:
    """Return the parts of a threshold.json that TensorBoard shows."""
    scores = {"dice": dice, "dice_positive": 0.5, "empty_kept": 0.75, "baseline": 0.6}
    crossed = scores | {"dice": dice - 0.125}
    cross_fitted = crossed if folds > 1 else None
    return {"pooled": scores, "cross_fitted": cross_fitted, "auc": {"value": 0.9}}


def write_run(folder: Path, content: dict, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    replace(Config(), run_name=folder.name, **settings).save(folder / "config.yaml")
    write_run_events(folder, content, PICTURE)
    return folder


def open_board(logdir: Path) -> tuple[EventMultiplexer, Context]:
    """Load a folder as TensorBoard does."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(logdir))
    return runs, Context(SimpleNamespace(data_provider=provider))


def compare(logdir: Path) -> dict[str, tuple[dict, dict]]:
    """Return what the HPARAMS tab shows: settings and scores of each run by name."""
    _, board = open_board(logdir)
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=100, allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN]
    )
    found = {}
    for group in Handler(RequestContext(), board, "", request).run().session_groups:
        (session,) = group.sessions
        settings = {
            name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()
        }
        scores = {score.name.tag: score.value for score in session.metric_values}
        assert session.name not in found
        found[session.name] = (settings, scores)
    return found


def test_the_tab_compares_runs_by_settings_and_scores(tmp_path):
    write_run(tmp_path / "a", thresholds(0.75), lr=0.125, clahe=False, seed=5)
    write_run(tmp_path / "b", thresholds(0.875), lr=0.25, positive_share=0.5, loss_stage2="dice")
    found = compare(tmp_path)
    assert set(found) == {"a", "b"}
    for name, dice in (("a", 0.75), ("b", 0.875)):
        settings, scores = found[name]
        assert set(settings) == {field.name for field in fields(Config)} - MAY_CHANGE
        assert scores == pytest.approx(list_scores(thresholds(dice)))
    (first, _), (second, _) = found["a"], found["b"]
    assert (first["lr"], first["clahe"], first["seed"]) == (0.125, "false", "5")
    assert (second["lr"], second["clahe"], second["seed"]) == (0.25, "true", "default")
    assert [s["positive_share"] for s in (first, second)] == ["default", "0.5"]
    assert [s["loss_stage2"] for s in (first, second)] == ["default", "dice"]


def test_settings_other_than_the_defaults_are_shown_first(tmp_path):
    run = write_run(tmp_path / "a", thresholds(), lr=0.125, clahe=False, seed=5)
    _, board = open_board(run)
    empty = ListHyperparametersResult(hyperparameters=[], session_groups=[])
    context = RequestContext()
    rows = board.hparams_metadata(context, "")
    shown = board.experiment_from_metadata(context, "", True, rows, empty, hparams_limit=3)
    assert [info.name for info in shown.hparam_infos] == ["clahe", "lr", "seed"]


def test_scores_that_a_run_lacks_are_left_out_of_it_alone(tmp_path):
    content = thresholds(folds=1)
    content["pooled"]["dice_positive"] = float("nan")
    write_run(tmp_path / "a", content)
    write_run(tmp_path / "b", thresholds())
    found = compare(tmp_path)
    assert set(found["a"][1]) == {
        "score/pooled_dice",
        "score/pooled_empty_kept",
        "score/all_empty_dice",
        "score/auc",
    }
    assert len(found["b"][1]) == 8


def test_a_repeated_choice_of_thresholds_replaces_the_events(tmp_path):
    run = write_run(tmp_path / "a", thresholds(0.75))
    fold = run / "fold0/events.out.tfevents.1"
    fold.parent.mkdir()
    fold.touch()
    write_run(run, thresholds(0.875))
    runs, _ = open_board(run)
    assert len(runs.Tensors(".", "score/pooled_dice")) == len(runs.Tensors(".", "threshold")) == 1
    assert fold.exists()
    (scores,) = (scores for _, scores in compare(run).values())
    assert scores["score/pooled_dice"] == 0.875


def test_the_folder_of_a_blend_has_scores_without_settings(tmp_path):
    write_run_events(tmp_path, thresholds(), PICTURE)
    runs, _ = open_board(tmp_path)
    assert set(runs.Runs()["."]["tensors"]) == {"threshold", *list_scores(thresholds())}
    assert not runs.PluginRunToTagToContent("hparams")
