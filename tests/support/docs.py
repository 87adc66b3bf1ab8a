"""The pages that people read, and the code in them."""

from __future__ import annotations

import re

from support.project import ROOT

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}


def section_of(page: str, title: str) -> str:
    """What stands under `## title` of a page."""
    return PAGES[page].split(f"\n## {title}\n")[1].split("\n## ")[0]


def code_blocks(text: str, language: str) -> list[str]:
    """The blocks between ```language and ```, top to bottom."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of the shell blocks, continued lines joined and comments cut off."""
    lines = "".join(code_blocks(text, "sh")).replace("\\\n", "").splitlines()
    return [command for line in lines if (command := line.split("#")[0].strip())]


def quoted(text: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`\n]+)`", text)
