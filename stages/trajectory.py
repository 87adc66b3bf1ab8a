"""Stage `trajectory`: when each head begins to matter, over the checkpoints that training kept.

Lines and pairs are the same at every checkpoint, so that its numbers compare: the confirm half of the parenthesised
test lines, and the regroup pairs of the confirm split that the last checkpoint answers right on both sides.
A head matters from the first epoch from which its measure stays above counterfactual.min_effect.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.arithmetic.examples import HALVES, read_examples
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import prompts_of, token_pairs
from pilot.experiments.pairs import usable_pairs
from pilot.experiments.params import CounterfactualParams, SweepParams
from pilot.experiments.trajectory import MEASURES, Snapshot, begins_to_matter, measure_heads, read_snapshots
from pilot.models.checkpoint import load_model
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_csv, write_json
from pilot.runtime.schema import load_section
from pilot.sweep import SweepEngine


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.trajectory", description=__doc__)
    parser.add_config()
    parser.add_argument("--run-dir", type=Path, default=Path("runs/pilot"), help="checkpoints (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the data (default: %(default)s)")
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_device()
    args = parser.parse_args(argv)
    started = time.perf_counter()
    device = resolve_device(args.device)
    params = load_section(args.config, "counterfactual", CounterfactualParams)
    sweep = load_section(args.config, "sweep", SweepParams)
    snapshots = read_snapshots(args.run_dir)
    last = load_model(snapshots[-1].path, device)
    val = prompts_of(read_examples(args.data_dir / "pilot_val.jsonl", last.config.context))
    lines = prompts_of(read_examples(args.data_dir / "pilot_test_paren.jsonl", last.config.context)[HALVES["confirm"]])
    drawn = token_pairs(read_pairs(args.data_dir / "pilot_pairs.jsonl", last.config.context))
    group = (MAIN_EDIT, "confirm")
    drawn = [pair for pair in drawn if (pair.edit, pair.split) == group]
    pairs = usable_pairs(SweepEngine(last, sweep.impl), drawn, params.min_logit_gap).groups[group] if drawn else []

    measured = {}
    for snapshot in tqdm(snapshots, unit="checkpoint", disable=None):
        engine = SweepEngine(load_model(snapshot.path, device), sweep.impl)
        measured[snapshot.epoch] = measure_heads(engine, val, lines, pairs, params.min_logit_gap)
    begins = begins_to_matter(measured, params.min_effect)

    for snapshot in snapshots:
        path = args.metrics_dir / "trajectory" / f"epoch_{snapshot.epoch:03d}.json"
        write_json(path, {"val": snapshot.val, **measured[snapshot.epoch]})
    write_csv(args.metrics_dir / "trajectory.csv", ("epoch", "head", "measure", "value"), _rows(snapshots, measured))
    write_json(
        args.metrics_dir / "trajectory.json",
        {"checkpoints": len(snapshots), "lines": len(lines), "pairs": len(pairs), "begins_to_matter": begins},
    )
    _print_results(snapshots, measured, begins, params.min_effect)
    seconds = time.perf_counter() - started
    print(f"{len(snapshots)} checkpoints, {len(lines)} lines, {len(pairs)} {MAIN_EDIT} pairs: {seconds:.0f} s")
    print(f"Wrote {args.metrics_dir / 'trajectory.json'}")


def _rows(snapshots: Sequence[Snapshot], measured: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each number: of a head, or of the whole model where `head` is left out."""
    rows: list[dict[str, Any]] = []
    for snapshot in snapshots:
        numbers = measured[snapshot.epoch]
        whole = {f"val_{kind}": accuracy for kind, accuracy in snapshot.val.items()}
        if "logit_gap" in numbers:
            whole["logit_gap"] = numbers["logit_gap"]
        rows += [{"epoch": snapshot.epoch, "measure": name, "value": value} for name, value in whole.items()]
        rows += [
            {"epoch": snapshot.epoch, "head": head, "measure": measure, "value": value}
            for measure in MEASURES
            for head, value in numbers.get(measure, {}).items()
        ]
    return rows


def _print_results(
    snapshots: Sequence[Snapshot],
    measured: Mapping[int, Mapping[str, Any]],
    begins: Mapping[str, Mapping[str, int]],
    least: float,
) -> None:
    table = [
        [snapshot.epoch, *snapshot.val.values(), measured[snapshot.epoch].get("logit_gap")] for snapshot in snapshots
    ]
    print(tabulate(table, headers=["epoch", "val flat", "val paren", "logit gap"], floatfmt=".3f"))
    print(f"\nThe epoch from which each measure of a head stays above {least}")
    heads = measured[snapshots[-1].epoch]["ablation_paren"]
    table = [[head, *(begins.get(measure, {}).get(head) for measure in MEASURES)] for head in heads]
    print(tabulate(table, headers=["head", *MEASURES]))


if __name__ == "__main__":
    raise SystemExit(main())
