"""The README tells the truth: what it names exists."""

import re
from pathlib import Path

import pytest

from utils.config.settings import Config

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "flag", sorted(set(re.findall(r"python (?:main|train_sfold)\.py([^`\n]*)", README)))
)
def test_flags_of_the_training_commands_exist(flag):
    names = re.findall(r"--(\w+)", flag)
    assert set(names) <= set(Config.__dataclass_fields__) | {"config", "help"}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_linked_files_exist(target):
    assert (REPOSITORY / target).exists()


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
