"""What the machine can do, measured in the same run, and the short table at the end."""

from __future__ import annotations

import time

import pytest
import torch


@pytest.fixture(scope="session")
def best_time():
    """best_time(function, seconds): the shortest of the calls that fit."""

    def measure(function, seconds: float) -> float:
        function()
        times, end = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return min(times)

    return measure


@pytest.fixture(scope="session")
def copy_bandwidth(best_time) -> float:
    """Bytes read and written a second by a large copy into memory that was touched before."""
    x = torch.ones(16 * 2**20)
    y = torch.empty_like(x)
    return 2 * x.nbytes / best_time(lambda: y.copy_(x), 0.3)


@pytest.fixture(scope="session")
def gemm_rate(best_time) -> float:
    """Float32 operations a second of a large matrix product."""
    x = torch.randn(1024, 1024)
    y = torch.empty_like(x)
    return 2 * 1024**3 / best_time(lambda: torch.mm(x, x, out=y), 0.3)
