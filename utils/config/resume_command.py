"""The command that resumes a run: what this process was started as, with the flags it needs."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from utils.config.command_line import load_config
from utils.config.layout import is_ambiguous
from utils.config.settings import Config


def resume_command(config: Config, folder: Path) -> str:
    """Return a shell command that does what remains of the work of this process.

    Settings that the run has saved need no flags. Those of this call alone do: its folds, where
    the runs and the images are, and whatever else may differ from the saved run.

    Args:
        config: the settings of this process, with a run name.
        folder: the run's folder.
    """
    file = folder / "config.yaml"
    saved = load_config(file) if file.exists() else Config()
    without_flags = replace(
        saved, folds="all", mode="train", resume=False, run_name=None, model_path=Config.model_path
    )
    names = [
        field.name
        for field in fields(Config)
        if getattr(config, field.name) != getattr(without_flags, field.name)
        and field.name not in ("run_name", "resume")
    ]
    if "model_type" not in names and is_ambiguous(folder):
        names.insert(0, "model_type")
    flags = [word for name in ("run_name", *names) for word in _flag(name, getattr(config, name))]
    flags[2:2] = ["--resume", "true"]
    return f"{_describe_start(os.environ)} {shlex.join(flags)}"


def _flag(name: str, value: object) -> list[str]:
    text = "null" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    # A value that starts with a dash would be taken for a flag.
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def _describe_start(environment: Mapping[str, str]) -> str:
    """Return how this process was started: interpreter or torchrun, and script."""
    gpus = environment.get("CUDA_VISIBLE_DEVICES")
    is_cluster = "SLURM_JOB_ID" in environment  # which chooses the GPUs of every job anew
    visible = "" if gpus is None or is_cluster else f"CUDA_VISIBLE_DEVICES={shlex.quote(gpus)} "
    return visible + shlex.join([*_launcher(environment), sys.argv[0]])


def _launcher(environment: Mapping[str, str]) -> list[str]:
    if "TORCHELASTIC_RUN_ID" not in environment:
        return [sys.orig_argv[0]]
    words = ["torchrun", "--nproc_per_node", environment["LOCAL_WORLD_SIZE"]]
    machines = environment.get("GROUP_WORLD_SIZE", "1")
    if machines != "1":
        words += ["--nnodes", machines, "--node_rank", environment["GROUP_RANK"]]
        words += ["--master_addr", environment["MASTER_ADDR"]]
        words += ["--master_port", environment["MASTER_PORT"]]
    return words
