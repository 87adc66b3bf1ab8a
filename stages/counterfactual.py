"""Stage `counterfactual`: which heads are sufficient, which necessary, on pairs of expressions one edit apart.

With `torchrun --nproc-per-node=2 -m stages.counterfactual` processes share the sweep over all sets of heads, and the
result is the same, bit for bit. One that was killed goes on where it was when the same command is given again.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from pilot.arithmetic.edits import EDITS, MAIN_EDIT
from pilot.arithmetic.pairs import CounterfactualPair, read_pairs
from pilot.experiments.effects import logit_difference_changes
from pilot.experiments.pairs import DIRECTIONS
from pilot.experiments.params import CounterfactualParams, SweepParams
from pilot.experiments.positions import position_map
from pilot.experiments.selection import pipeline_targets, read_selection
from pilot.experiments.statistics import selection_frequency
from pilot.experiments.subsets import Game, best_sets, play, redundant_with
from pilot.experiments.verdicts import in_words, patch_pairs, usable_pairs, verdicts
from pilot.interventions import Intervention, single_heads
from pilot.models.checkpoint import load_model
from pilot.models.transformer import PilotTransformer
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
    "interactions": ("direction", "head_a", "head_b", "value", "low", "high"),
    "best_sets": ("direction", "size", "set", "heads", "value", "low", "high"),
}
Tables = dict[str, list[dict]]

# What the sweep over all sets of heads runs.
CODE = (
    "pilot.arithmetic",
    "pilot.experiments",
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
        help="what a killed run goes on with; all its processes share it, and no other run (default: %(default)s)",
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
    impl = distributed.from_main(lambda: SweepEngine(model, impl).impl)  # builds the operator, once
    ranked, k = read_selection(args.selection, model.config)
    targets = pipeline_targets(ranked, k, ())
    groups, counts = distributed.from_main(
        lambda: usable_pairs(model, read_pairs(args.pairs, model.config.context), params.min_logit_gap, impl)
    )
    select, confirm = groups[MAIN_EDIT, "select"], groups[MAIN_EDIT, "confirm"]
    files = [args.checkpoint, *(sources() if impl == "fused" else ())]
    facts = {"arithmetic": arithmetic_of(device), "rows": SweepEngine(model, impl).rows}
    key = fingerprint(facts, [Path(__file__), *files], CODE)
    shards = Shards(args.state_dir, key)
    play_sets = partial(_play, model, select, confirm, tuple(sorted(ranked)), params, impl, shards)
    if not distributed.is_main():  # the others help with what takes long
        if params.exhaustive and select and confirm:
            for direction in DIRECTIONS:
                play_sets(direction)
        return

    results: dict = {"fused": int(impl == "fused"), "pairs": counts, "effects": {}}
    for edit in EDITS:
        if pairs := groups[edit, "confirm"]:
            results["effects"][edit] = {
                direction: patch_pairs(model, pairs, direction, targets, params, impl) for direction in DIRECTIONS
            }
            _print_effects(edit, results["effects"][edit], len(pairs))
    tables: Tables = {name: [] for name in TABLES}
    if select and confirm:
        heads = [head.name for head in targets["all_heads"]]
        results["verdict"] = verdicts(results["effects"][MAIN_EDIT], heads, params.min_effect)
        results["stability"] = _stability(model, select, k, params, impl)
        tables["head_positions"] = _head_positions(model, confirm, impl)
        if params.exhaustive:
            results["shapley"] = _enumerate(play_sets, ranked, params, results["verdict"], tables)
        _print_verdict(results["verdict"])
    else:
        print(
            f"No verdict: of the {MAIN_EDIT} pairs {args.checkpoint} answers {len(select)} select and {len(confirm)} "
            "confirm ones right on both sides and clearly; both splits need some"
        )
    for name, rows in tables.items():
        write_csv(args.metrics_dir / f"{name}.csv", TABLES[name], rows)
    write_json(args.metrics_dir / "counterfactual.json", results)
    shards.remove()
    print(f"Wrote {args.metrics_dir / 'counterfactual.json'}")


def _stability(
    model: PilotTransformer, pairs: Sequence[CounterfactualPair], k: int, params: CounterfactualParams, impl: str
) -> dict[str, dict[str, float]]:
    """How often each head is among the k of largest effect when the pairs are drawn anew, by direction."""
    heads = single_heads(model.config)
    stability = {}
    for direction in DIRECTIONS:
        change, _ = logit_difference_changes(model, pairs, direction, heads, impl)
        frequency = selection_frequency(change, k, params.resamples, np.random.default_rng(params.seed))
        stability[direction] = {head.name: float(share) for (head,), share in zip(heads, frequency, strict=True)}
    return stability


def _play(
    model: PilotTransformer,
    select: Sequence[CounterfactualPair],
    confirm: Sequence[CounterfactualPair],
    heads: Intervention,
    params: CounterfactualParams,
    impl: str,
    shards: Shards,
    direction: str,
) -> dict[str, Game | None]:
    """Every set of the heads on the first pairs of each split: the games by split, None in all but the main process."""
    games = {}
    for split, pairs in (("select", select), ("confirm", confirm)):
        chosen = pairs[: params.exhaustive_pairs]
        print(f"{direction}: all {2 ** len(heads)} sets of heads on {len(chosen)} {split} pairs", flush=True)
        games[split] = play(model, chosen, direction, heads, impl, shards)
    return games


def _enumerate(
    play_sets: Callable[[str], dict[str, Game]],
    ranked: Intervention,
    params: CounterfactualParams,
    verdict: dict[str, dict],
    tables: Tables,
) -> dict[str, dict]:
    """Every set of heads, in both directions: returns Shapley values, fills in the tables of interactions and best
    sets, and adds to each head's verdict whether it is redundant.
    """
    names = [head.name for head in sorted(ranked)]
    shapley = {}
    for direction in DIRECTIONS:
        games = play_sets(direction)
        rng = np.random.default_rng(params.seed)
        values = games["confirm"].shapley(params.resamples, rng)
        shapley[direction] = {name: asdict(values[i]) for i, name in enumerate(names)}
        mutual = games["confirm"].interactions(params.resamples, rng)
        tables["interactions"] += [
            {"direction": direction, "head_a": names[i], "head_b": names[j], **asdict(mutual[i, j])}
            for i, j in combinations(range(len(names)), 2)
        ]
        best = best_sets(games["select"], games["confirm"], ranked, params.resamples, params.seed)
        tables["best_sets"] += [{"direction": direction, **row} for row in best]
        if direction == "denoising":
            for name, partner in zip(names, redundant_with(mutual, params.min_interaction), strict=True):
                verdict[name]["redundant"] = int(partner is not None)
    return shapley


def _head_positions(model: PilotTransformer, pairs: Sequence[CounterfactualPair], impl: str) -> list[dict]:
    maps = {direction: position_map(model, pairs, direction, impl) for direction in DIRECTIONS}
    return [
        {
            "direction": direction,
            "head": head.name,
            "position": position,
            "symbol": symbol,
            "value": found.recovery[i, position],
            "pairs": found.pairs,
        }
        for direction, found in maps.items()
        for i, (head,) in enumerate(found.heads)
        for position, symbol in enumerate(found.symbols)
    ]


def _print_effects(edit: str, by_direction: Mapping[str, Mapping[str, dict]], pairs: int) -> None:
    for direction, rows in by_direction.items():
        print(f"\n{edit} pairs, {direction}: {pairs} confirm pairs, with 95 % intervals")
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
            for name, row in rows.items()
        ]
        headers = ["patched", "recovery", "wrong donor", "flips to donor", "keeps own", "KL", "p (Holm)"]
        print(tabulate(table, headers=headers, floatfmt=".3g"))


def _interval(estimate: Mapping[str, float] | None) -> str:
    return f"{estimate['value']:+.2f} [{estimate['low']:+.2f}, {estimate['high']:+.2f}]" if estimate else ""


def _print_verdict(verdict: Mapping[str, Mapping[str, int]]) -> None:
    print(f"\nVerdict on {MAIN_EDIT} pairs")
    print(tabulate([[name, in_words(words)] for name, words in verdict.items()], headers=["head", ""]))


if __name__ == "__main__":
    raise SystemExit(main())
