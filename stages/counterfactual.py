"""Stage `counterfactual`: which heads are sufficient, which necessary, on pairs of expressions one edit apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np
from tabulate import tabulate

from pilot.checkpoint import load_model
from pilot.cli import Parser, command, resolve_device
from pilot.counterfactual import DIRECTIONS, read_pairs
from pilot.edits import EDITS
from pilot.effects import logit_difference_changes
from pilot.enumeration import best_sets, play, redundant_with
from pilot.errors import PilotError
from pilot.experiment import in_words, patch_pairs, usable_pairs, verdicts
from pilot.files import write_csv, write_json
from pilot.interventions import single_heads
from pilot.params import PatchParams, load_params
from pilot.position_map import PositionMap, position_map
from pilot.selection import pipeline_targets, read_selection
from pilot.statistics import selection_frequency
from pilot.sweep import resolve_impl

MAIN_EDIT = "regroup"  # the edit that moves nothing but parentheses: sets of heads and positions are looked at on it


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.counterfactual", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument("--pairs", type=Path, default=Path("data/pilot_pairs.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--selection", type=Path, default=Path("metrics/selection.json"), help="(default: %(default)s)")
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_device()
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    everything = load_params(args.config)
    params = everything.patch
    model = load_model(args.checkpoint, device)
    impl = resolve_impl(model, everything.sweep.impl)
    ranked, k = read_selection(args.selection, model.config)
    targets = pipeline_targets(ranked, k, ())
    groups, counts = usable_pairs(model, read_pairs(args.pairs, model.config.context), params.min_logit_gap, impl)
    if not all(groups[MAIN_EDIT, split] for split in ("select", "confirm")):
        raise PilotError(
            f"{args.pairs}: the model answers no {MAIN_EDIT} pair of one split right on both sides: train it longer "
            "(train.num_epochs), or draw more pairs (data.pairs_per_edit)"
        )

    effects = {}
    for edit in EDITS:
        if pairs := groups[edit, "confirm"]:
            effects[edit] = {
                direction: patch_pairs(model, pairs, direction, targets, params, impl) for direction in DIRECTIONS
            }
            _print_effects(edit, effects[edit], len(pairs))
    heads = targets["all_heads"]
    results = {
        "fused": int(impl == "fused"),
        "pairs": counts,
        "effects": effects,
        "verdict": verdicts(effects[MAIN_EDIT], [head.name for head in heads], params.min_effect),
        "stability": {},
    }
    select, confirm = groups[MAIN_EDIT, "select"], groups[MAIN_EDIT, "confirm"]
    cells = []
    for direction in DIRECTIONS:
        change, _ = logit_difference_changes(model, select, direction, single_heads(model.config), impl)
        frequency = selection_frequency(change, k, params.resamples, np.random.default_rng(params.seed))
        results["stability"][direction] = dict(zip((head.name for head in heads), frequency.tolist(), strict=True))
        cells += _cells(position_map(model, confirm, direction, impl), direction)
    write_csv(args.metrics_dir / "head_positions.csv", list(cells[0]), cells)
    if params.exhaustive:
        results |= _enumerate(model, select, confirm, ranked, params, impl, results["verdict"], args.metrics_dir)
    write_json(args.metrics_dir / "counterfactual.json", results)
    _print_verdict(results["verdict"])
    print(f"Wrote {args.metrics_dir / 'counterfactual.json'}")


def _enumerate(model, select, confirm, ranked, params: PatchParams, impl, verdict, metrics_dir: Path) -> dict:
    """Every set of heads, in both directions: returns Shapley values, writes tables of interactions and best sets."""
    heads, names = tuple(sorted(ranked)), [head.name for head in sorted(ranked)]
    pairs = {"select": select[: params.exhaustive_pairs], "confirm": confirm[: params.exhaustive_pairs]}
    shapley, interactions, sets = {}, [], []
    for direction in DIRECTIONS:
        games = {}
        for split, chosen in pairs.items():
            print(f"{direction}: all {2 ** len(heads)} sets of heads on {len(chosen)} {split} pairs", flush=True)
            games[split] = play(model, chosen, direction, heads, impl, progress=True)
        rng = np.random.default_rng(params.seed)
        values = games["confirm"].shapley(params.resamples, rng)
        shapley[direction] = {name: asdict(values[i]) for i, name in enumerate(names)}
        mutual = games["confirm"].interactions(params.resamples, rng)
        interactions += [
            {"direction": direction, "head_a": names[i], "head_b": names[j], **asdict(mutual[i, j])}
            for i, j in combinations(range(len(names)), 2)
        ]
        best = best_sets(games["select"], games["confirm"], ranked, params.resamples, params.seed)
        sets += [{"direction": direction, **row} for row in best]
        if direction == "denoising":
            for name, partner in zip(names, redundant_with(mutual, params.min_interaction), strict=True):
                verdict[name]["redundant"] = int(partner is not None)
    write_csv(metrics_dir / "interactions.csv", list(interactions[0]), interactions)
    write_csv(metrics_dir / "best_sets.csv", ["direction", "size", "set", "heads", "value", "low", "high"], sets)
    return {"shapley": shapley}


def _cells(found: PositionMap, direction: str) -> list[dict]:
    return [
        {
            "direction": direction,
            "head": head.name,
            "position": position,
            "symbol": symbol,
            "value": found.recovery[i, position],
            "pairs": found.pairs,
        }
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
