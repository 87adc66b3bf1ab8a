"""From the timings of `make bench` to metrics/benchmark.json, and from that to what README and docs/ say of them.

    python tests/support/speed_tables.py TIMINGS metrics/benchmark.json

writes the second file and prints the text, ready to paste. tests/test_speed_tables.py holds the pages to it.
"""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]  # nested, numbers only


def results_of(timings: dict[str, Any]) -> Numbers:
    """pytest-benchmark's JSON as nested dicts of numbers."""
    by_table: dict[str | None, list[dict[str, Any]]] = {}  # None: those of a GPU
    for bench in timings["benchmarks"]:
        by_table.setdefault(bench["extra_info"].get("table"), []).append(bench)
    sweeps = {bench["group"]: _sweep(bench) for bench in by_table["sweeps"]}
    facts = by_table["patched_attention"][0]["extra_info"]
    machine = f"{timings['machine_info']['cpu']['brand_raw']} with {facts['instruction_set'].upper()}"
    (memory,), (planning,), language = by_table["memory"], by_table["planning"], by_table["language_attention"]
    plan_seconds, planned = planning["stats"]["median"], next(row for name, row in sweeps.items() if "of 16" in name)
    return {
        "machine": {
            machine: {
                "threads": facts["threads"],
                "gemm_gflop_per_s": facts["gemm_rate"] / 1e9,
                "copy_gb_per_s": facts["copy_bandwidth"] / 1e9,
            }
        },
        "sweeps": sweeps,
        "memory": {memory["extra_info"]["row"]: {"peak_gb": memory["extra_info"]["peak"] / 1e9}},
        "planning": {
            "seconds": plan_seconds,
            "fraction_of_sweep_of_one_pair": plan_seconds * planned["pairs"] / planned["fused"]["median"],
        },
        "language_attention": {bench["group"]: _turns(bench, "sdpa") for bench in language},
        "patched_attention": _operator(by_table["patched_attention"]),
        "branched_mlp": _operator(by_table["branched_mlp"]),
    }


def _sweep(bench: dict[str, Any]) -> Numbers:
    info, turns = bench["extra_info"], _turns(bench, "eager", "loop")
    of_gemm = info["flop"] / turns["fused"]["median"] / info["gemm_rate"]
    return {
        "interventions": info["interventions"],
        "pairs": info["pairs"],
        **turns,
        "batch_of_loop": info["batch"],
        "gflop": info["flop"] / 1e9,
        "gemm_gflop_per_s": info["gemm_rate"] / 1e9,
        "fraction_of_gemm_rate": of_gemm,
        "operators": info["operators"],
    }


def _turns(bench: dict[str, Any], *others: str) -> Numbers:
    """Seconds of each, timed in turn, and what each of the others takes over this project's, turn by turn."""
    own, seconds = bench["stats"]["data"], bench["extra_info"]["seconds"]
    ratios = {
        f"{name}_over_fused": _spread([other / mine for other, mine in zip(seconds[name], own, strict=True)])
        for name in others
    }
    return {"runs": len(own), "fused": _spread(own), **{name: _spread(seconds[name]) for name in others}, **ratios}


def _spread(values: list[float]) -> Numbers:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _operator(benches: list[dict[str, Any]]) -> Numbers:
    """By shape and implementation; beside branched_mlp the matrix product in it."""
    rows: Numbers = {}
    for bench in benches:
        row, info = rows.setdefault(bench["group"], {}), bench["extra_info"]
        row[info["impl"]] = bench["stats"]["median"]
        if "product_seconds" in info:
            row["product"] = info["product_seconds"]
    return rows


def pages(results: Numbers) -> dict[str, str]:
    """What README has to say, and a section each of two pages of docs/."""
    texts = {
        "README.md": _short(results),
        "docs/sweep.md": _sweep_section(results),
        "docs/operators.md": _operators_section(results),
    }
    return {page: "\n\n".join(map(_wrapped, text.split("\n\n"))) for page, text in texts.items()}


def _wrapped(block: str) -> str:
    """A paragraph in lines of the pages' width; a heading or a table as it is."""
    return block if block.startswith(("#", "|")) else textwrap.fill(block, 120)


def _short(results: Numbers) -> str:
    # In the order of support.sweep_rows.ROWS.
    small, _, _, positions, sets, heads, players, _ = (
        row["loop_over_fused"]["median"] for row in results["sweeps"].values()
    )
    return (
        f"Against a plain loop with hooks it is {heads:.0f} times as fast on all heads of SmolLM2, {players:.0f} times "
        f"on all sets of 12; on the arithmetic model {small:.1f} times on a small sweep, {positions:.0f} on all heads "
        f"and positions, {sets:.0f} on all sets."
    )


def _sweep_section(results: Numbers) -> str:
    return f"""## How fast it is

Times of `make bench` on {_machine(results)}. *pilot* is the default model on 16 tokens. *Llama* has the shape of
SmolLM2-135M (30 layers, 9 heads on 3 key and value heads, d_model 576, d_mlp 1536) on pairs of 14 tokens that differ
from position 9 on. Weights are random, and the logits of two tokens are read at the last position.

{_sweeps(results)}

The loop is what one writes without this project: the model's own forward on batches of pairs of the best size, one
intervention at a time, and a hook that puts the donor's saved z in place. Fused, eager and loop run in turn; times are
medians, brackets hold the lowest and the highest ratio of a turn. Where eager or the loop would take minutes, a part of
the sweep is timed and scaled up (`tests/support/sweep_rows.py`). GFLOP/s count matrix products and attention; the GEMM
rate is PyTorch's on the second product of the MLP.

What the operators take of the time of a fused sweep on one core, by PyTorch's profiler, on 16 pairs of the pilot and
one of the Llama, and at most 4,096 interventions. The rest is PyTorch's, Python's, and the profiler's own:

{_where_the_time_goes(results)}

{_memory(results)} {_planning(results)}

{_language_attention(results)}
"""


def _operators_section(results: Numbers) -> str:
    return f"""## How fast they are

Medians of `make bench` on {_machine(results)}. `branched_mlp` is what a sweep spends most of its time in:

{_branched_mlp(results)}

`patched_attention` with one head in four replaced, as in patched forwards of whole models:

{_patched_attention(results)}
"""


def _machine(results: Numbers) -> str:
    ((name, machine),) = results["machine"].items()
    return (
        f"{machine['threads']} cores of {name}, which multiply large float32 matrices at "
        f"{machine['gemm_gflop_per_s']:.0f} GFLOP/s and copy {machine['copy_gb_per_s']:.0f} GB/s"
    )


def _sweeps(results: Numbers) -> str:
    header = ["sweep", "fused", "eager", "loop", "loop / fused", "eager / fused", "GFLOP/s", "of GEMM rate", "runs"]
    rows = [
        [
            name,
            *(_time(row[impl]["median"]) for impl in ("fused", "eager", "loop")),
            _spread_of(row["loop_over_fused"]),
            _spread_of(row["eager_over_fused"]),
            f"{row['gflop'] / row['fused']['median']:.0f}",
            f"{row['fraction_of_gemm_rate']:.0%}",
            str(row["runs"]),
        ]
        for name, row in results["sweeps"].items()
    ]
    return _table(header, *rows)


def _where_the_time_goes(results: Numbers) -> str:
    rows = {name: row["operators"] for name, row in results["sweeps"].items()}
    operators = sorted({operator for shares in rows.values() for operator in shares})
    lines = [
        [name, *(f"{shares.get(o, 0):.0%}" for o in operators), f"{1 - sum(shares.values()):.0%}"]
        for name, shares in rows.items()
    ]
    return _table(["sweep", *(f"`{operator}`" for operator in operators), "rest"], *lines)


def _memory(results: Numbers) -> str:
    ((row, memory),) = results["memory"].items()
    return f"A process that runs the row of {row} takes {memory['peak_gb']:.2f} GB of memory."


def _planning(results: Numbers) -> str:
    planning = results["planning"]
    return (
        f"The 65,536 sets of 16 heads of the Llama are planned in {_time(planning['seconds'])}, "
        f"{planning['fraction_of_sweep_of_one_pair']:.1%} of the time of their sweep on a single pair."
    )


def _language_attention(results: Numbers) -> str:
    rows = results["language_attention"]
    said = [
        f"{1 / row['sdpa_over_fused']['median'] - 1:+.1%} for {name} "
        f"({_time(row['fused']['median'])} against {_time(row['sdpa']['median'])})"
        for name, row in rows.items()
    ]
    runs = " and ".join({str(row["runs"]) for row in rows.values()})
    return (
        'A forward of the Llama with `attn_implementation="pilot"` and nothing patched, over one with "sdpa", takes '
        f"{', '.join(said)}; medians of {runs} turns."
    )


def _branched_mlp(results: Numbers) -> str:
    rows = [
        [name, *(_time(row[impl]) for impl in ("fused", "eager", "product")), f"{row['eager'] / row['fused']:.1f}"]
        for name, row in results["branched_mlp"].items()
    ]
    return _table(["NxCxBxW, K, dxm", "fused", "eager", "its product alone", "eager / fused"], *rows)


def _patched_attention(results: Numbers) -> str:
    rows = [
        [
            name,
            *(_time(row[impl]) for impl in ("fused", "eager", "sdpa")),
            *(f"{row[impl] / row['fused']:.1f}" for impl in ("eager", "sdpa")),
        ]
        for name, row in results["patched_attention"].items()
    ]
    return _table(
        ["rowsxpositionsxheadsxhead_dim, fan-out", "fused", "eager", "SDPA + where", "eager / fused", "SDPA / fused"],
        *rows,
    )


def _table(*rows: list[str]) -> str:
    header, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *rest])


def _time(seconds: float) -> str:
    """With about three digits."""
    unit, value = next(
        (unit, seconds * per) for unit, per in (("s", 1), ("ms", 1e3), ("µs", 1e6)) if seconds * per >= 1
    )
    return f"{value:,.{max(0, 3 - len(str(int(value))))}f} {unit}"


def _ratio(spread: Numbers) -> str:
    return f"{spread['median']:.{0 if spread['median'] >= 20 else 1}f}"


def _spread_of(spread: Numbers) -> str:
    digits = 0 if spread["median"] >= 20 else 1
    low, high = (f"{spread[end]:.{digits}f}" for end in ("low", "high"))
    return f"{_ratio(spread)} [{low}, {high}]"


def main(timings_file: str, results_file: str) -> None:
    timings = json.loads(Path(timings_file).read_text())
    results = results_of(timings)
    if any(bench["extra_info"].get("shrink", 1) > 1 for bench in timings["benchmarks"]):
        print(f"Pairs were divided: these are no results, and {results_file} is left as it is.")
    else:
        Path(results_file).write_text(json.dumps(results, indent=2) + "\n")
    for page, text in pages(results).items():
        print(f"\n===== {page} =====\n\n{text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
