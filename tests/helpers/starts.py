"""Checkpoints of a fold without a training, to start other runs from."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from datasets.folds import make_folds, write_folds
from utils.config.settings import Config
from utils.config.stages import build_stages


def folds_of(ids: list[str], n_splits: int) -> pd.DataFrame:
    """Split images into plain folds; every third one is positive."""
    return make_folds({name: i % 3 == 0 for i, name in enumerate(ids)}, n_splits, stratified=False)


def write_trained(
    run: Path, table: pd.DataFrame, network: nn.Module | None = None, **settings: Any
) -> Config:
    """Write config.yaml, folds.csv and the best checkpoint of every stage, as training does.

    Args:
        run: the folder of the run, named after its network and its name.
        table: its folds.
        network: its weights; without one, the checkpoints have none.
        **settings: of the run.
    """
    saved = Config(model_type=run.parent.name, run_name=run.name, **settings)
    run.mkdir(parents=True)
    saved = replace(saved, n_splits=int(table["fold"].max()) + 1)
    saved.save(run / "config.yaml")
    write_folds(table, run / "folds.csv")
    for fold in range(saved.n_splits):
        (run / f"fold{fold}").mkdir()
        for stage in build_stages(saved):
            content = {
                "state_dict": network.state_dict() if network else {},
                "live": None,
                "optimizer": {},
                "model_type": saved.model_type,
                "stage": stage.number,
                "epoch": 2,
                "fold": fold,
                "best": {"epoch": 2},
                "config": asdict(saved),
            }
            torch.save(content, run / f"fold{fold}" / f"stage{stage.number}_best.pth")
    return saved
