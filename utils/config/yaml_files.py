"""Reading YAML files of plain settings: only names and values."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from utils import limits
from utils.errors import InputError, cause_of, one_line

_DEPTH = 8


def read_yaml(path: str | Path) -> object:
    """Read a YAML file.

    Raises:
        InputError: it cannot be read, or contains more than plain values.
    """
    text = check_yaml(path)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} cannot be read as YAML: {one_line(error)}") from error


def check_yaml(path: str | Path) -> str:
    """Read the text of a YAML file and check that it is safe to parse.

    Raises:
        InputError: it is missing, too large or not YAML, or contains more than plain values:
            aliases, which let a few bytes expand without limit, tags, or deep nesting.
    """
    try:
        text = limits.read_bytes(path, limits.SETTINGS_BYTES).decode("utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) or depth > _DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise InputError(
                    f"{path} line {line}: settings are plain names and values, without aliases "
                    f"(*), tags (!) or more than {_DEPTH} levels"
                )
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = one_line(cause_of(error))
        raise InputError(f"{path} cannot be read as YAML: {reason}") from error
    return text


class PlainConfigFile(ActionConfigFile):
    """A flag for a YAML file that refuses anything but plain settings."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Check the file, then read it."""
        limits.check_file("--config", values, "a YAML file of settings, such as those in recipes/")
        if Path(values).is_file() and not isinstance(read_yaml(values), dict):
            raise InputError(f"--config {values}: has no settings; give lines such as lr: 0.001")
        super().__call__(parser, cfg, values, option_string)
