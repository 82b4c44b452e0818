"""This software: its name, its version and the commit of the checkout."""

import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

_REPOSITORY = Path(__file__).parents[2]


class Software(NamedTuple):
    """What names this software in files that leave it.

    Attributes:
        name: name of the project.
        version: its version and, in a git checkout, the commit; -dirty marks changes to it.
    """

    name: str
    version: str


def describe_software() -> Software:
    """Return name and version of this software."""
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    commit = git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")
    version = project["version"]
    return Software(project["name"], f"{version}, commit {commit}" if commit else version)


def git(*words: str) -> str | None:
    """Return the output of git, or None outside a checkout or without git."""
    try:
        result = subprocess.run(["git", *words], cwd=_REPOSITORY, capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
