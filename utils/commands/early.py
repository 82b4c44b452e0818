"""What can be refused at once: runs and folders that are named on a command line but missing.

Commands call this before they import what does the work, which takes seconds. The work itself finds
the same files with the same functions.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from datasets.patients import read_patients
from datasets.siim import check_folders
from utils.commands.paths import check_not_read, check_output_file
from utils.config.command_line import load_config
from utils.config.layout import find_run, find_starts
from utils.config.prediction import BlendOptions, PredictOptions
from utils.config.settings import Config
from utils.errors import InputError, check_text
from utils.files import check_writable
from utils.inference.runs import read_runs, results_folder, threshold_command
from utils.inference.submission import check_paths, scores_path
from utils.limits import check_file

_OF_THE_DATA = ("dataset_root", "groups")


def check_training(config: Config, given: frozenset[str]) -> None:
    """Check what main.py and train_sfold.py read and write: runs, data, files that flags name.

    Args:
        config: the settings of this call.
        given: names of the settings that were given rather than left at their defaults.

    Raises:
        InputError: one is missing or cannot be written to, or the csv of patients cannot be read.
    """
    for folder in filter(None, (config.model_path, config.cache_dir)):
        check_writable(Path(folder))
    if config.exclude is not None:
        check_file("--exclude", config.exclude, "a text file of image ids")
    run = find_run(config, given)
    if run is None:
        find_starts(config.init_from, config.fold_numbers())
        if config.encoder_weights is not None:
            check_file("--encoder_weights", config.encoder_weights, "a file of encoder weights")
    else:
        saved = load_config(run / "config.yaml")
        config = replace(
            config, **{name: getattr(saved, name) for name in _OF_THE_DATA if name not in given}
        )
    if config.mode != "choose_threshold":
        check_folders(config.dataset_root)
        if config.groups is not None:
            check_file("--groups", config.groups, "a csv of ImageId,PatientId")
            read_patients(config.groups)


def check_prediction(options: PredictOptions) -> None:
    """Check what predict.py reads and writes: runs or an exported network, images, results.

    Raises:
        InputError: one is missing or not what it should be, cannot be written to, or would be
            overwritten.
    """
    if options.model is None:
        read_runs(options.run, options.weights, options.folds)
    else:
        check_file("--model", options.model, "a file that python -m models.export wrote")
    check_paths(options.images)
    if options.sample_submission is not None:
        check_file("--sample_submission", options.sample_submission, "a csv of image ids")
    _check_submission(options, Path(options.out))
    for folder in (options.overlays, options.probabilities, options.dicom_seg):
        if folder is not None:
            check_writable(folder)


def _check_submission(options: PredictOptions, out: Path) -> None:
    check_output_file("--out", out, ".csv", makes_folder=True)
    scores = scores_path(out)
    check_output_file("scores.csv", scores or out, makes_folder=True)
    tables = [Path(run) / name for run in options.run for name in ("folds.csv", "data.csv")]
    inputs = [*options.images, options.sample_submission, *tables]
    check_not_read("--out", out, inputs)
    if scores is not None:
        check_not_read("next to --out,", scores, inputs)


def check_blend(options: BlendOptions) -> None:
    """Check what utils.blend reads: runs and their images.

    Raises:
        InputError: one is missing or not what it should be; or there is one run, and no other --tta
            than its own.
    """
    for named in options.run:  # blend.json holds these names
        check_text("--run", named)
    runs = read_runs(options.run, options.weights, "all")
    if len(runs) == 1 and results_folder(runs, options.tta) == runs[0].folder:
        raise InputError(
            f"--run {options.run[0]}: a blend needs a second --run, or another --tta than "
            f"{runs[0].config.tta}, whose thresholds a run chooses from its own predictions:\n"
            f"  {threshold_command(runs)}"
        )
    check_folders(options.dataset_root or runs[0].config.dataset_root)


def check_adoption(checkpoints: Iterable[Path], model_path: str) -> None:
    """Check what models.adopt reads and writes: checkpoints, and the folder of all runs.

    Raises:
        InputError: a checkpoint is missing, or the folder cannot be written to.
    """
    check_writable(Path(model_path))
    for path in checkpoints:
        check_file("--checkpoint", path, "a file of weights")
