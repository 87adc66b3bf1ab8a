"""Stage `counterfactual`: which heads are sufficient, which necessary, on pairs of expressions one edit apart.

With `torchrun --nproc-per-node=2 -m stages.counterfactual` processes share the enumeration of all sets of heads. One
that was killed goes on where it was when the same command is given again.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from pilot import distributed
from pilot.checkpoint import load_model
from pilot.cli import Parser, command, resolve_device
from pilot.counterfactual import DIRECTIONS, read_pairs
from pilot.edits import EDITS
from pilot.effects import logit_difference_changes
from pilot.enumeration import Game, best_sets, play, redundant_with
from pilot.errors import PilotError
from pilot.experiment import in_words, patch_pairs, usable_pairs, verdicts
from pilot.extension import sources
from pilot.files import write_csv, write_json
from pilot.interventions import Intervention, single_heads
from pilot.params import Params, PatchParams, load_params
from pilot.position_map import PositionMap, position_map
from pilot.resume import fingerprint
from pilot.selection import pipeline_targets, read_selection
from pilot.shards import Shards
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
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path("runs/.state/counterfactual"),
        help="for what a killed run goes on with; shared by all processes, of this run alone (default: %(default)s)",
    )
    parser.add_device()
    args = parser.parse_args(argv)
    distributed.launch("stages.counterfactual", sys.argv[1:] if argv is None else argv)
    device, params = resolve_device(args.device), load_params(args.config)
    with distributed.process_group(device, fixed_threads=True) as device:
        _analyse(args, params, device)


def _analyse(args: Namespace, everything: Params, device: torch.device) -> None:
    params = everything.patch
    model = load_model(args.checkpoint, device)
    impl = distributed.from_main(lambda: resolve_impl(model, everything.sweep.impl))  # builds the operator, once
    ranked, k = read_selection(args.selection, model.config)
    targets = pipeline_targets(ranked, k, ())
    groups, counts = distributed.from_main(
        lambda: usable_pairs(model, read_pairs(args.pairs, model.config.context), params.min_logit_gap, impl)
    )
    if not all(groups[MAIN_EDIT, split] for split in ("select", "confirm")):
        raise PilotError(
            f"{args.pairs}: the model answers no {MAIN_EDIT} pair of one split right on both sides: train it longer "
            "(train.num_epochs), or draw more pairs (data.pairs_per_edit)"
        )
    select, confirm = groups[MAIN_EDIT, "select"], groups[MAIN_EDIT, "confirm"]
    code = sources() if impl == "fused" else []
    key = fingerprint({"device": device.type, "threads": torch.get_num_threads()}, [args.checkpoint, *code])
    shards = Shards(args.state_dir, key)
    play_sets = partial(_play, model, select, confirm, tuple(sorted(ranked)), params, impl, shards)
    if not distributed.is_main():  # the others help with what takes long
        if params.exhaustive:
            for direction in DIRECTIONS:
                play_sets(direction)
        return

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
    cells = []
    for direction in DIRECTIONS:
        change, _ = logit_difference_changes(model, select, direction, single_heads(model.config), impl)
        frequency = selection_frequency(change, k, params.resamples, np.random.default_rng(params.seed))
        results["stability"][direction] = dict(zip((head.name for head in heads), frequency.tolist(), strict=True))
        cells += _cells(position_map(model, confirm, direction, impl), direction)
    write_csv(args.metrics_dir / "head_positions.csv", list(cells[0]), cells)
    if params.exhaustive:
        results |= _enumerate(play_sets, ranked, params, results["verdict"], args.metrics_dir)
    write_json(args.metrics_dir / "counterfactual.json", results)
    shards.remove()
    _print_verdict(results["verdict"])
    print(f"Wrote {args.metrics_dir / 'counterfactual.json'}")


def _play(
    model, select, confirm, heads: Intervention, params: PatchParams, impl: str, shards: Shards, direction: str
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
    params: PatchParams,
    verdict: dict[str, dict],
    metrics_dir: Path,
) -> dict:
    """Every set of heads, in both directions: returns Shapley values, writes tables of interactions and best sets."""
    names = [head.name for head in sorted(ranked)]
    shapley, interactions, sets = {}, [], []
    for direction in DIRECTIONS:
        games = play_sets(direction)
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
