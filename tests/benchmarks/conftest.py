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
    result = yield  # pytest-benchmark's own tables come first: these are the last to scroll by
    groups: dict[str, dict[str, object]] = {}
    session = getattr(config, "_benchmarksession", None)
    for bench in session.benchmarks if session else ():
        if bench.stats.data:
            groups.setdefault(bench.group, {})[bench.extra_info["impl"]] = bench
    _print_operator(terminalreporter, {name: group for name, group in groups.items() if "sdpa" in group})
    _print_branched_mlp(terminalreporter, {name: group for name, group in groups.items() if "rows" in _any(group)})
    _print_sweeps(terminalreporter, {name: group for name, group in groups.items() if "speedup" in _any(group)})
    return result


def _any(group: dict) -> dict:
    return next(iter(group.values())).extra_info


def _print_sweeps(terminalreporter, groups: dict):
    write = terminalreporter.write_line
    for device in dict.fromkeys(_any(group)["device"] for group in groups.values()):
        terminalreporter.section("sweep: seconds, and patched forwards as a multiple of the reference's")
        write(f"{'':>48}  {'fused':>9} {'eager':>9}  fused/reference  GFLOP/s  of GEMM rate")
        for name, group in groups.items():
            if _any(group)["device"] != device:
                continue
            cells = [f"{group[impl].stats.min:8.2f}s" if impl in group else "" for impl in ("fused", "eager")]
            info = group["fused"].extra_info if "fused" in group else _any(group)
            write(
                f"{name:>48}  {cells[0]:>9} {cells[1]:>9}  {info['speedup']:14.1f}x  "
                f"{info['fraction_of_gemm_rate'] * info['gemm_rate'] / 1e9:7.0f}  {info['fraction_of_gemm_rate']:11.0%}"
            )
        write(
            f"{device}. Reference: {info['reference_rate']:.0f} patched forwards/s; products of the engine's own "
            f"shape: {info['gemm_rate'] / 1e9:.0f} GFLOP/s."
        )


def _print_branched_mlp(terminalreporter, groups: dict):
    if not groups:
        return
    write = terminalreporter.write_line
    terminalreporter.section("branched_mlp: microseconds for a row of a branch, and for its matrix product")
    write(f"{'N x C x B x W, K, d x m':>32}  {'fused':>8} {'eager':>8}  {'product':>8}  eager/fused")
    for name, group in groups.items():
        fused, eager = (group[impl].stats.min / group[impl].extra_info["rows"] * 1e6 for impl in ("fused", "eager"))
        product = _any(group)["product_seconds"] / _any(group)["rows"] * 1e6
        write(f"{name:>32}  {fused:8.3f} {eager:8.3f}  {product:8.3f}  {eager / fused:10.1f}x")


def _print_operator(terminalreporter, groups: dict):
    if not groups:
        return
    write = terminalreporter.write_line
    terminalreporter.section("patched_attention: milliseconds, median (fastest)")
    write(
        f"{'P x T x H x D, fan-out':>24}  {'fused':>17} {'eager':>17} {'SDPA':>17}  eager/fused  SDPA/fused  GEMM  copy"
    )
    for group, benches in groups.items():
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
