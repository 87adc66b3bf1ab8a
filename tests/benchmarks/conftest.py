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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    result = yield  # pytest-benchmark's own tables come first: this one is the last to scroll by
    _print_table(terminalreporter, config)
    return result


def _print_table(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    groups: dict[str, dict[str, object]] = {}
    for bench in session.benchmarks if session else ():
        if bench.stats.data:
            groups.setdefault(bench.group, {})[bench.extra_info["impl"]] = bench
    if not groups:
        return
    write = terminalreporter.write_line
    terminalreporter.section("patched_attention: milliseconds, median (fastest)")
    write(
        f"{'P x T x H x D, fan-out':>24}  {'fused':>17} {'eager':>17} {'SDPA':>17}  eager/fused  SDPA/fused  GEMM  copy"
    )
    for group, benches in groups.items():
        if set(benches) != {"fused", "eager", "sdpa"}:
            continue
        cells = [
            f"{b.stats.median * 1e3:8.3f} ({b.stats.min * 1e3:6.3f})"
            for b in map(benches.get, ("fused", "eager", "sdpa"))
        ]
        fused = benches["fused"]
        ratios = [benches[other].stats.median / fused.stats.median for other in ("eager", "sdpa")]
        info = fused.extra_info
        write(
            f"{group:>24}  {cells[0]:>17} {cells[1]:>17} {cells[2]:>17}  {ratios[0]:10.1f}x {ratios[1]:10.1f}x "
            f"{info['fraction_of_gemm_rate']:5.0%} {info['fraction_of_copy_bandwidth']:5.0%}"
        )
    write(
        f"{info['threads']} threads, {info['instruction_set']}. GEMM, copy: fused, as a share of what this run "
        f"measured, {info['gemm_rate'] / 1e9:.0f} GFLOP/s and {info['copy_bandwidth'] / 1e9:.0f} GB/s."
    )
    write("Other work on these cores makes every thread barrier wait for milliseconds: then the ratios count barriers.")
