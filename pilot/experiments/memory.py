"""How much memory is free, asked before a computation that would need more."""

from __future__ import annotations

import os
from pathlib import Path

from pilot.errors import PilotError


def check_memory(pairs: int, bytes_per_pair: int, free: int | None = None) -> None:
    """Raises PilotError that says how many pairs fit, where so many do not. The system would end the process.

    free   bytes; None: as the system says, and no check where it does not say
    """
    free = _free_memory() if free is None else free
    if free is not None and pairs * bytes_per_pair > free:
        raise PilotError(
            f"{pairs} pairs need {pairs * bytes_per_pair / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are "
            f"free: {free // bytes_per_pair} pairs at a time fit"
        )


def _free_memory() -> int | None:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # Linux, whose own figure counts what it would drop to make room
        for line in meminfo.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    names = os.sysconf_names if hasattr(os, "sysconf") else {}
    if {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys():
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
