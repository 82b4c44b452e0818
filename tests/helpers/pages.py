"""The README and the pages of docs/, and the commands in them."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(REPOSITORY)): re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    for path in sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
}
"""Texts by name, with continuation lines joined."""


def commands_of(page: str) -> list[str]:
    """List the commands of a page's sh blocks, with single spaces and without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"(^|\s)#.*", "", line).split() for line in "".join(blocks).splitlines()]
    return [" ".join(words) for words in lines if words]
