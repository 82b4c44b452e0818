"""The command line of the entry scripts: every setting of `Config` is a flag."""

from argparse import RawDescriptionHelpFormatter
from dataclasses import fields

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from utils.config.settings import Config
from utils.config.yaml_files import PlainConfigFile

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Shows types and defaults, and leaves the lines of the description as they are."""


def parse(args: list[str] | None, description: str) -> tuple[Config, frozenset[str]]:
    """Read the command line, and the YAML files that it names with `--config`.

    Args:
        args: the words behind the script's name; None takes those of the process.
        description: opens the help.

    Returns:
        The settings, and the names of those that were given rather than left at their defaults.

    Raises:
        InputError: settings contradict each other or are out of range.
        SystemExit: a flag is unknown or of the wrong type (code 2), or help was asked for.
    """
    parser = ArgumentParser(
        description=description, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action=PlainConfigFile, help="YAML file with settings, see recipes/."
    )
    parser.add_class_arguments(Config)
    every = parser.parse_args(args)
    given = parser.parse_args(args, defaults=False)
    names = [setting.name for setting in fields(Config)]
    return (
        Config(**{name: every[name] for name in names}),
        frozenset(name for name in names if name in given),
    )
