"""How much memory is free, asked before a computation that would need more."""

from __future__ import annotations

import psutil

from pilot.errors import PilotError


def check_memory(pairs: int, bytes_per_pair: int, free: int | None = None) -> None:
    """Raises PilotError that says how many pairs fit, where so many do not. The system would end the process.

    free   bytes; None: as the system says
    """
    free = psutil.virtual_memory().available if free is None else free
    if pairs * bytes_per_pair > free:
        raise PilotError(
            f"{pairs} pairs need {pairs * bytes_per_pair / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are "
            f"free: {free // bytes_per_pair} pairs at a time fit"
        )
