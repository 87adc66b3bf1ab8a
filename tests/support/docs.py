"""The pages that people read, and the code in them."""

from __future__ import annotations

import re
from pathlib import Path

from support.project import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(page: Path, language: str) -> list[str]:
    """The blocks between ```language and ```, top to bottom."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of the shell blocks, continued lines joined and comments cut off."""
    lines = "".join(code_blocks(page, "sh")).replace("\\\n", "").splitlines()
    return [command for line in lines if (command := line.split("#")[0].strip())]
