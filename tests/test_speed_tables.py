"""What README and docs/ say of speed is what `make bench` wrote to metrics/benchmark.json."""

from __future__ import annotations

import json

import pytest
from support.docs import PAGES
from support.project import ROOT
from support.speed_tables import pages, results_of

RESULTS = ROOT / "metrics/benchmark.json"


def _bench(table: str, group: str, median: float, /, **info: object) -> dict:
    return {
        "group": group,
        "stats": {"median": median, "data": [median, median, 2 * median]},
        "extra_info": {"table": table, **info},
    }


def _timings() -> dict:
    """Three turns: fused takes 2, 2 and 4 s, the loop 20, 30 and 20 s."""
    sweeps = [
        _bench(
            "sweeps",
            f"{name}, 4 pairs",
            2.0,
            seconds={"eager": [4.0, 4.0, 4.0], "loop": [20.0, 30.0, 20.0]},
            interventions=9,
            pairs=4,
            batch=64,
            flop=2e11,
            gemm_rate=2e11,
            operators={"product": 0.25},
        )
        for name in (
            "pilot, a",
            "pilot, b",
            "pilot, c",
            "pilot, d",
            "pilot, e",
            "Llama, heads",
            "Llama, sets of 12",
            "Llama, sets of 16",
        )
    ]
    facts = {"instruction_set": "avx2", "threads": 2, "gemm_rate": 1e11, "copy_bandwidth": 3e10}
    operators = [
        _bench(table, "4x2", seconds, impl=impl, **facts, **more)
        for table, more in (("patched_attention", {}), ("branched_mlp", {"product_seconds": 1e-5}))
        for impl, seconds in (("fused", 2e-5), ("eager", 3e-3), ("sdpa", 4e-3))
    ]
    others = [_bench("memory", "", 1.0, row="pilot, e, 4 pairs", peak=5e8), _bench("planning", "", 0.5)]
    others.append(_bench("language_attention", "4 rows", 2.0, seconds={"sdpa": [1.0, 2.0, 4.0]}))
    return {"machine_info": {"cpu": {"brand_raw": "A CPU"}}, "benchmarks": [*sweeps, *operators, *others]}


def test_timings_become_medians_and_the_ratios_of_each_turn():
    results = results_of(_timings())
    row = results["sweeps"]["pilot, a, 4 pairs"]
    assert row["fused"] == {"median": 2.0, "low": 2.0, "high": 4.0}
    assert row["loop_over_fused"] == {"median": 10.0, "low": 5.0, "high": 15.0}
    assert row["fraction_of_gemm_rate"] == 0.5
    assert results["planning"]["fraction_of_sweep_of_one_pair"] == 1.0  # 0.5 s beside a sweep of four pairs in 2 s
    text = pages(results)
    assert (
        "| pilot, a, 4 pairs | 2.00 s | 4.00 s | 20.0 s | 10.0 [5.0, 15.0] | 2.0 [1.0, 2.0] | 100 | 50% | 3 |"
        in (text["docs/sweep.md"])
    )
    assert "| pilot, a, 4 pairs | 25% | 75% |" in text["docs/sweep.md"]
    assert "takes +0.0% for 4 rows (2.00 s against 2.00 s)" in " ".join(text["docs/sweep.md"].split())
    assert "| 4x2 | 20.0 µs | 3.00 ms | 10.0 µs | 150.0 |" in text["docs/operators.md"]
    assert "10 times on all sets of 12; on the arithmetic model 10.0 times on a small sweep" in " ".join(
        text["README.md"].split()
    )


@pytest.mark.skipif(not RESULTS.exists(), reason="make bench has not been run")
@pytest.mark.parametrize("page", ["README.md", "docs/sweep.md", "docs/operators.md"])
def test_pages_say_what_was_measured(page):
    text = pages(json.loads(RESULTS.read_text()))[page]
    assert " ".join(text.split()) in " ".join(PAGES[page].split()), f"{page} should say:\n{text}"
