"""Pages as Chromium shows them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium (chromium, google-chrome) to open the page with"
)


def browse(page: str, folder: Path, *options: str) -> tuple[str, list[str]]:
    """The page's elements once its scripts have run, and what the browser's console says."""
    path = folder / "report.html"
    path.write_text(page)
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", *options, "--dump-dom", path.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def with_script(page: str, script: str) -> str:
    """The page with a reader's hands: a script that runs after its own."""
    return page.replace("</body>", f"<script>{script}</script></body>")
