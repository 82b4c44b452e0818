"""What can be refused at once: runs and folders that are named on a command line but missing.

Commands call this before they import what does the work, which takes seconds. The work itself finds
the same files with the same functions.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from datasets.siim import check_folders
from utils.config.command_line import load_config
from utils.config.layout import find_run, find_starts
from utils.config.prediction import BlendOptions, PredictOptions
from utils.config.settings import Config
from utils.errors import check_text
from utils.inference.runs import read_runs
from utils.inference.submission import check_paths, check_sample
from utils.limits import check_is_file


def check_training(config: Config, given: frozenset[str]) -> None:
    """Check what main.py and train_sfold.py read: the run to continue, or else to start from; data.

    Args:
        config: the settings of this call.
        given: names of the settings that were given rather than left at their defaults.

    Raises:
        InputError: a run or a folder is missing.
    """
    run = find_run(config, given)
    if run is None:
        find_starts(config.init_from, config.fold_numbers())
    elif "dataset_root" not in given:
        config = replace(load_config(run / "config.yaml"), mode=config.mode)
    if config.mode != "choose_threshold":
        check_folders(config.dataset_root)


def check_prediction(options: PredictOptions) -> None:
    """Check what predict.py reads: runs or an exported network, images and the sample submission.

    Raises:
        InputError: one is missing or not what it should be.
    """
    if options.model is None:
        read_runs(options.run, options.weights, options.folds)
    else:
        check_is_file(options.model, "exported network")
    check_paths(options.images)
    if options.sample_submission is not None:
        check_sample(options.sample_submission)


def check_blend(options: BlendOptions) -> None:
    """Check what utils.blend reads: runs and their images.

    Raises:
        InputError: one is missing or not what it should be.
    """
    for named in options.run:  # blend.json holds these names
        check_text("--run", named)
    runs = read_runs(options.run, options.weights, "all")
    check_folders(options.dataset_root or runs[0].config.dataset_root)


def check_checkpoints(paths: Iterable[Path]) -> None:
    """Check that checkpoints exist.

    Raises:
        InputError: one is missing.
    """
    for path in paths:
        check_is_file(path, "checkpoint")
