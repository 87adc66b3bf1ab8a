"""Stage `counterfactual`: which heads are sufficient, which necessary, on pairs of expressions one edit apart.

With `torchrun --nproc-per-node=2 -m stages.counterfactual` processes share the sweep over all sets of heads, and the
result is the same, bit for bit. A run that was killed resumes when the same command is given again.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tabulate import tabulate

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import position_labels, token_pairs
from pilot.experiments.effects import PairExperiment
from pilot.experiments.evidence import redundancy_pvalues
from pilot.experiments.pairs import usable_pairs
from pilot.experiments.params import CounterfactualParams, SweepParams
from pilot.experiments.positions import position_map
from pilot.experiments.selection import pipeline_targets, read_selection
from pilot.experiments.subsets import SubsetEffects, best_sets, measure_subsets
from pilot.experiments.verdicts import TargetRow, in_words, measure_targets, stability, verdicts
from pilot.inputs.pairs import DIRECTIONS, SPLITS
from pilot.interventions import Intervention
from pilot.models.checkpoint import load_model
from pilot.ops.toolchain import sources
from pilot.runtime import distributed
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_csv, write_json
from pilot.runtime.resume import arithmetic_of, fingerprint
from pilot.runtime.schema import load_section
from pilot.runtime.shards import Shards
from pilot.sweep import SweepEngine

# The tables beside counterfactual.json, of MAIN_EDIT pairs; DVC wants them there even where they have no rows.
TABLES = {
    "head_positions": ("direction", "head", "position", "symbol", "value", "pairs"),
    "interactions": ("direction", "head_a", "head_b", "value", "low", "high", "p_holm"),
    "best_sets": ("direction", "size", "set", "heads", "value", "low", "high", "optimism"),
}
Tables = dict[str, list[dict[str, Any]]]
Verdicts = dict[str, dict[str, int]]

# What the sweep over all sets of heads runs.
CODE = (
    "pilot.arithmetic",
    "pilot.experiments",
    "pilot.inputs",
    "pilot.interventions",
    "pilot.models",
    "pilot.ops",
    "pilot.runtime",
    "pilot.sweep",
)


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.counterfactual", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument("--pairs", type=Path, default=Path("data/pilot_pairs.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--selection", type=Path, default=Path("metrics/selection.json"), help="(default: %(default)s)")
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path("runs/.state/counterfactual"),
        help="what a killed run resumes from; all its processes share it, and no other run (default: %(default)s)",
    )
    parser.add_device()
    args = parser.parse_args(argv)
    distributed.launch("stages.counterfactual", sys.argv[1:] if argv is None else argv)
    device = resolve_device(args.device)
    params = load_section(args.config, "counterfactual", CounterfactualParams)
    sweep = load_section(args.config, "sweep", SweepParams)
    with distributed.process_group(device, fixed_threads=True) as device:
        _analyse(args, params, sweep.impl, device)


def _analyse(args: Namespace, params: CounterfactualParams, impl: str, device: torch.device) -> None:
    model = load_model(args.checkpoint, device)
    engine = SweepEngine(model, distributed.from_main(lambda: SweepEngine(model, impl).impl))  # builds operators once
    ranked, k = read_selection(args.selection, model.config)
    targets = pipeline_targets(ranked, k, ())
    pairs = token_pairs(read_pairs(args.pairs, model.config.context))
    usable = distributed.from_main(lambda: usable_pairs(engine, pairs, params.min_logit_gap))
    main_pairs = {split: usable.need(MAIN_EDIT, split) for split in SPLITS}
    experiments = {
        direction: {split: PairExperiment(engine, main_pairs[split], direction) for split in SPLITS}
        for direction in DIRECTIONS
    }
    files = [Path(__file__), args.checkpoint, *(sources() if engine.impl == "fused" else ())]
    facts = {"arithmetic": arithmetic_of(device), "rows": engine.rows}
    shards = Shards(args.state_dir, fingerprint(facts, files, CODE))

    def all_subsets(direction: str) -> dict[str, SubsetEffects | None]:
        by_split = experiments[direction]
        return {split: _all_subsets(by_split[split], split, ranked, params, shards) for split in SPLITS}

    if not distributed.is_main():  # the others help with what takes long
        if params.exhaustive:
            for direction in DIRECTIONS:
                all_subsets(direction)
        return

    results: dict[str, Any] = {"fused": int(engine.impl == "fused"), "pairs": usable.counts, "effects": {}}
    for edit in usable.counts:
        if usable.enough(edit, "confirm"):
            confirm = usable.groups[edit, "confirm"]
            rows, controlled = {}, {}
            for direction in DIRECTIONS:
                experiment = (
                    experiments[direction]["confirm"]
                    if edit == MAIN_EDIT
                    else PairExperiment(engine, confirm, direction)
                )
                rows[direction] = measure_targets(experiment, targets, params)
                controlled[direction] = len(experiment.wrong_donor()[0])
            results["effects"][edit] = rows
            results["pairs"][edit]["with_wrong_donor"] = controlled
            _print_effects(edit, rows, len(confirm), controlled)
    heads = [head.name for head in targets["all_heads"]]
    results["verdict"] = verdicts(results["effects"][MAIN_EDIT], heads, params)
    results["stability"] = {
        direction: stability(by_split["select"], k, params.resamples, params.seed)
        for direction, by_split in experiments.items()
    }
    tables: Tables = {name: [] for name in TABLES}
    tables["head_positions"] = _head_positions([by_split["confirm"] for by_split in experiments.values()])
    if params.exhaustive:
        results["shapley"] = _of_all_subsets(all_subsets, ranked, params, results["verdict"], tables)
    _print_verdict(results["verdict"])
    for name, table in tables.items():
        write_csv(args.metrics_dir / f"{name}.csv", TABLES[name], table)
    write_json(args.metrics_dir / "counterfactual.json", results)
    shards.remove()
    print(f"Wrote {args.metrics_dir / 'counterfactual.json'}")


def _all_subsets(
    experiment: PairExperiment, split: str, ranked: Intervention, params: CounterfactualParams, shards: Shards
) -> SubsetEffects | None:
    """Every set of heads on the first pairs of a split; None in all but the main process."""
    first = experiment.take(np.arange(min(params.exhaustive_pairs, len(experiment))))
    print(f"{experiment.direction}: all {2 ** len(ranked)} sets of heads on {len(first)} {split} pairs", flush=True)
    return measure_subsets(first, tuple(sorted(ranked)), shards)


def _of_all_subsets(
    all_subsets: Callable[[str], dict[str, SubsetEffects | None]],
    ranked: Intervention,
    params: CounterfactualParams,
    verdict: Verdicts,
    tables: Tables,
) -> dict[str, dict[str, Any]]:
    """Shapley values by direction and head. Fills in the tables of interactions and best sets, and adds to each head's
    verdict whether it is redundant.
    """
    names = [head.name for head in sorted(ranked)]
    # In this process, the main one, no set is missing.
    subsets = {direction: cast("dict[str, SubsetEffects]", all_subsets(direction)) for direction in DIRECTIONS}
    rng = np.random.default_rng(params.seed)
    denoising, noising = (subsets[direction]["confirm"] for direction in DIRECTIONS)
    pvalues = redundancy_pvalues(denoising, noising, params.min_interaction, params.level, params.resamples, rng)
    for name, partners in zip(names, pvalues < params.level, strict=True):
        verdict[name]["redundant"] = int(partners.any())
    shapley = {}
    for direction, by_split in subsets.items():
        values = by_split["confirm"].shapley(params.resamples, rng)
        shapley[direction] = {name: asdict(values[i]) for i, name in enumerate(names)}
        interactions = by_split["confirm"].interactions(params.resamples, rng)
        tables["interactions"] += [
            {
                "direction": direction,
                "head_a": names[i],
                "head_b": names[j],
                **asdict(interactions[i, j]),
                "p_holm": float(pvalues[i, j]),
            }
            for i, j in combinations(range(len(names)), 2)
        ]
        best = best_sets(by_split["select"], by_split["confirm"], ranked, params.resamples, params.seed)
        tables["best_sets"] += [{"direction": direction, **row} for row in best]
        _print_optimism(direction, best)
    return shapley


def _head_positions(experiments: list[PairExperiment]) -> list[dict[str, Any]]:
    rows = []
    for experiment in experiments:
        found = position_map(experiment, [position_labels(pair) for pair in experiment.pairs])
        rows += [
            {
                "direction": experiment.direction,
                "head": head.name,
                "position": position,
                "symbol": symbol,
                "value": found.recovery[i, position],
                "pairs": found.pairs,
            }
            for i, (head,) in enumerate(found.heads)
            for position, symbol in enumerate(found.labels)
        ]
    return rows


def _print_effects(
    edit: str, rows: Mapping[str, Mapping[str, TargetRow]], pairs: int, with_wrong_donor: Mapping[str, int]
) -> None:
    for direction, by_target in rows.items():
        print(
            f"\n{edit} pairs, {direction}: {pairs} confirm pairs, {with_wrong_donor[direction]} of them with a wrong "
            "donor; 95 % intervals"
        )
        table = [
            [
                name,
                _interval(row["recovery"]),
                _interval(row.get("wrong_donor")),
                _interval(row["flip_rate"]),
                row["exact_match"],
                row["kl"],
                row.get("p_holm"),
            ]
            for name, row in by_target.items()
        ]
        headers = ["patched", "recovery", "wrong donor", "flips to donor", "keeps own", "KL", "p (Holm)"]
        print(tabulate(table, headers=headers, floatfmt=".3g"))


def _interval(estimate: Mapping[str, float] | None) -> str:
    return f"{estimate['value']:+.2f} [{estimate['low']:+.2f}, {estimate['high']:+.2f}]" if estimate else ""


def _print_optimism(direction: str, best: list[dict[str, Any]]) -> None:
    largest = max((row for row in best if "optimism" in row), key=lambda row: row["optimism"])
    print(
        f"{direction}: the best sets, chosen on select pairs, are worth up to {largest['optimism']:.3f} less on "
        f"confirm pairs (with {largest['size']} heads)"
    )


def _print_verdict(verdict: Verdicts) -> None:
    print(f"\nVerdict on {MAIN_EDIT} pairs")
    print(tabulate([[name, in_words(words)] for name, words in verdict.items()], headers=["head", ""]))


if __name__ == "__main__":
    raise SystemExit(main())
