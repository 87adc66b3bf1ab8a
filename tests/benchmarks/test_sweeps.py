"""The sweep engine, fused and eager, beside a plain loop with hooks (support.sweep_rows).

Results are compared before anything is timed, and no time fails a test. Eager and the loop run before each round of
what pytest-benchmark times, so that a ratio is of one minute of one machine. FLOPs are what the plan counts
(support.flops), beside the rate of the engine's own largest matrix product.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import pytest
import torch
from support.flops import count_work, unpatched_flops
from support.project import no_compiler
from support.sweep_rows import (
    LARGEST,
    LLAMA_LIVE,
    LLAMA_SEQ,
    ROWS,
    SHRINK,
    Pairs,
    Row,
    by_engine,
    by_plain_loop,
    model_of,
    pairs_of,
    peak_memory,
    sets_of_16,
)
from torch.profiler import ProfilerActivity, profile, record_function

from pilot.sweep import SweepEngine
from pilot.sweep.lowering import lower
from pilot.sweep.plan import Planner

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

BATCHES = {"pilot": (64, 128, 512), "llama": (8, 16, 32)}  # of which the loop runs with the best
PROFILED = {"pilot": 16, "llama": 1}  # pairs


@cache
def engine_of(model: str, impl: str) -> SweepEngine:
    """Made once, as by anyone who sweeps a model more than once."""
    return SweepEngine(model_of(model), impl)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}, {row.pairs} pairs")
def test_sweep(benchmark, best_time, row):
    if row.model == "llama" and not benchmark.enabled:
        pytest.skip("takes long; the suite compares results on tiny models of the family")
    model, fused, eager = model_of(row.model), engine_of(row.model, "fused"), engine_of(row.model, "eager")
    interventions = row.interventions(model)
    few, sample = pairs_of(row.model, 2), [interventions[0], *interventions[:: len(interventions) // 8 | 1]]
    want = by_plain_loop(model, sample, few, 2)
    for engine in (fused, eager):
        torch.testing.assert_close(by_engine(engine, sample, few), want, atol=1e-4, rtol=1e-4)
    assert (want - want[:1]).abs().max() > 0.01

    pairs = pairs_of(row.model, row.pairs)
    if not benchmark.enabled:
        benchmark.pedantic(by_engine, (fused, sample, few))
        return
    of_loop = interventions[:: row.loop_share]
    batch = _best_batch(row, of_loop[:4], pairs[: row.loop_pairs])
    seconds: dict[str, list[float]] = defaultdict(list)

    def time_the_others():
        scale = row.pairs / row.eager_pairs
        seconds["eager"].append(scale * _seconds(by_engine, eager, interventions, pairs[: row.eager_pairs]))
        scale = row.pairs / row.loop_pairs * len(interventions) / len(of_loop)
        seconds["loop"].append(scale * _seconds(by_plain_loop, model, of_loop, pairs[: row.loop_pairs], batch))

    by_engine(fused, sample, pairs[:64])
    benchmark.group = f"{row.name}, {row.pairs} pairs"
    benchmark.pedantic(by_engine, (fused, interventions, pairs), setup=time_the_others, rounds=row.runs)
    benchmark.extra_info.update(
        table="sweeps",
        shrink=SHRINK,
        seconds=seconds,
        interventions=len(interventions),
        pairs=len(pairs),
        batch=batch,
        flop=_flop(row, pairs, interventions),
        gemm_rate=_gemm_rate(best_time, fused, row),
        operators=_operators(lambda: by_engine(fused, interventions[:4096], pairs[: PROFILED[row.model]])),
        threads=torch.get_num_threads(),
    )


def test_memory(benchmark):
    """In a process of its own, which does nothing else."""
    if not benchmark.enabled:
        pytest.skip("takes a whole sweep")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        peak = benchmark.pedantic(lambda: processes.submit(peak_memory, LARGEST).result())
    benchmark.extra_info.update(table="memory", row=f"{LARGEST.name}, {LARGEST.pairs} pairs", peak=peak)


def test_planning(benchmark):
    """All 65,536 sets of 16 heads of 30 layers, which the sweep of one pair takes many times as long to compute."""
    if not benchmark.enabled:
        pytest.skip("takes long")
    subsets, reads = sets_of_16(model_of("llama")), (LLAMA_SEQ - 1,)

    def plan():
        return Planner(subsets, 30).plan(LLAMA_SEQ - LLAMA_LIVE, reads)

    benchmark.pedantic(plan, rounds=5)
    benchmark.extra_info.update(table="planning")


def _seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def _best_batch(row: Row, interventions, pairs: Pairs) -> int:
    batches = sorted({min(batch, len(pairs)) for batch in BATCHES[row.model]})
    model = model_of(row.model)
    return min(
        batches, key=lambda batch: min(_seconds(by_plain_loop, model, interventions, pairs, batch) for _ in "12")
    )


def _flop(row: Row, pairs: Pairs, interventions) -> int:
    program = lower(model_of(row.model))
    first = int((pairs.recipient == pairs.donor).long().cumprod(1).sum(1).min())
    plan = Planner(interventions, len(program.layers)).plan(first, (int(pairs.read[0, 0]),))
    return row.pairs * (count_work(plan, program, 1, pairs.tokens.shape[1]).flops + 2 * unpatched_flops(plan, program))


def _gemm_rate(best_time, engine: SweepEngine, row: Row) -> float:
    """FLOP/s of the second half of the MLP, on as many rows as the engine computes at a time."""
    m, d = lower(model_of(row.model)).layers[0].mlp.write.weight.shape
    hidden, matrix, out = torch.randn(engine.rows, m), torch.randn(m, d), torch.empty(engine.rows, d)
    return 2 * engine.rows * m * d / best_time(lambda: torch.mm(hidden, matrix, out=out), 0.5)


def _operators(run) -> dict[str, float]:
    """The share of the time of `run`, on one core, that each operator of this project takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiled, record_function("whole"):
            run()
    finally:
        torch.set_num_threads(threads)
    seconds = {event.key: event.cpu_time_total for event in profiled.key_averages()}
    return {
        name.removeprefix("pilot::"): taken / seconds["whole"]
        for name, taken in seconds.items()
        if name.startswith("pilot::")
    }
