"""The command line of the training scripts: every setting of `Config` is a flag."""

from argparse import ArgumentError, RawDescriptionHelpFormatter
from dataclasses import fields, replace
from pathlib import Path

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from utils.config.checks import check_settings
from utils.config.number_types import plain
from utils.config.settings import Config
from utils.config.yaml_files import PlainConfigFile, read_yaml
from utils.errors import InputError, one_line

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Shows types and defaults, and keeps the line breaks of the description."""


def parse_config(args: list[str] | None, description: str) -> tuple[Config, frozenset[str]]:
    """Parse a command line and the YAML files given with `--config`.

    Args:
        args: command-line arguments; None uses sys.argv.
        description: the first part of the help text.

    Returns:
        The settings, and the names of those that were given rather than left at their defaults.

    Raises:
        InputError: settings contradict each other.
        SystemExit: a flag is unknown or its value has the wrong type or range (code 2), or --help
            was given.
    """
    parser = ArgumentParser(
        description=description,
        usage="%(prog)s [--help] [--config FILE.yaml] [--SETTING VALUE ...]",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        action=PlainConfigFile,
        help="YAML file with settings, such as those in recipes/.",
    )
    parser.add_class_arguments(Config)
    config = _to_config(parser.parse_args(args))
    given = parser.parse_args(args, defaults=False)
    if config.init_from is not None and "pretrained" not in given:
        config = replace(config, pretrained=False)
    # A run of that name may have more folds than the default; `open_run` checks their numbers.
    is_split_known = "n_splits" in given or config.run_name is None
    check_settings(config if is_split_known else replace(config, folds="all"))
    return config, frozenset(setting.name for setting in fields(Config) if setting.name in given)


def load_config(path: str | Path) -> Config:
    """Read a config.yaml that `Config.save` wrote.

    Raises:
        InputError: the file is missing or not plain YAML, or its settings do not exist, have a
            wrong type or range, or contradict each other.
    """
    content = read_yaml(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    try:
        if not isinstance(content, dict) or not content:
            raise InputError("it contains no settings")
        config = _to_config(parser.parse_object(content))
        check_settings(config)
    except (ArgumentError, InputError) as error:
        raise InputError(
            f"{path} cannot be read as the settings of a run: {one_line(error)}"
        ) from error
    return config


def _to_config(parsed: Namespace) -> Config:
    config = Config(**{setting.name: plain(parsed[setting.name]) for setting in fields(Config)})
    for setting in fields(Config):
        # In a file, jsonargparse accepts null for any type.
        if getattr(config, setting.name) is None and setting.default is not None:
            raise InputError(f"--{setting.name} null: must have a value")
    return config
