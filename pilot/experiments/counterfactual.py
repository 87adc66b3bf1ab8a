"""The counterfactual experiment from end to end: effects of heads with their controls, verdicts, positions, all sets.

What is tested and what the words mean is said in pilot.experiments.verdicts and pilot.experiments.evidence. Everything
about sets of heads, and about positions, is measured on the pairs of one edit, the main one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
from tabulate import tabulate

from pilot.experiments.effects import PairExperiment
from pilot.experiments.evidence import redundancy_pvalues
from pilot.experiments.pairs import UsablePairs
from pilot.experiments.params import CounterfactualParams
from pilot.experiments.positions import position_map
from pilot.experiments.subsets import SubsetEffects, measure_subsets
from pilot.experiments.verdicts import TargetRow, measure_targets, verdicts
from pilot.experiments.words import in_words
from pilot.inputs.pairs import DIRECTIONS, SPLITS, TokenPair
from pilot.interventions import Intervention
from pilot.runtime.files import write_csv, write_json
from pilot.runtime.shards import Shards
from pilot.sweep import SweepEngine

# The tables beside counterfactual.json; DVC wants them there even where they have no rows.
TABLES = {
    "head_positions": ("direction", "head", "position", "symbol", "value", "pairs"),
    "interactions": ("direction", "head_a", "head_b", "value", "low", "high", "p_holm"),
    "best_sets": ("direction", "size", "set", "heads", "value", "low", "high", "optimism"),
}

MOST_ROWS = 30  # of a printed table

Rows = list[dict[str, Any]]
Verdicts = dict[str, dict[str, int]]
Stability = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Results:
    """What is written as counterfactual.json, and TABLES."""

    content: dict[str, Any]
    tables: dict[str, Rows]

    def write(self, folder: Path) -> None:
        for name, table in self.tables.items():
            write_csv(folder / f"{name}.csv", TABLES[name], table)
        write_json(folder / "counterfactual.json", self.content)


@dataclass(frozen=True)
class Counterfactual:
    """One experiment: which heads are patched, and on which pairs.

    main_edit        has pairs of both splits
    targets          by name, for `measure_targets`
    players          heads whose sets are all patched
    compare_sets     rows of the table best_sets, from the sets on pairs of the select and of the confirm split
    labels           what stands at each position of the main edit's confirm pairs, for `position_map`
    position_pairs   how many of these pairs are patched position by position; None: all
    shards           share sweeps among processes, and let a killed run resume
    pairs_per_part   how many pairs they compute at a time; None: what suits small models, whose targets the main
                     process does in one go
    """

    engine: SweepEngine
    usable: UsablePairs
    main_edit: str
    targets: Mapping[str, Intervention]
    players: Intervention
    params: CounterfactualParams
    compare_sets: Callable[[SubsetEffects, SubsetEffects], Rows]
    labels: Sequence[tuple[str, ...]]
    position_pairs: int | None
    shards: Shards
    pairs_per_part: int | None = None

    @cached_property
    def main_pairs(self) -> dict[str, list[TokenPair]]:
        """By split. Raises PilotError where there are too few."""
        return {split: self.usable.need(self.main_edit, split) for split in SPLITS}

    @cached_property
    def experiments(self) -> dict[str, dict[str, PairExperiment]]:
        """On the pairs of the main edit, by direction and split."""
        return {
            direction: {split: PairExperiment(self.engine, self.main_pairs[split], direction) for split in SPLITS}
            for direction in DIRECTIONS
        }

    def run(self, stability: Callable[[], Stability], is_main: bool) -> Results | None:
        """All measurements, printed as they are made. In all processes but the main one, which only help, None.

        stability   how often each head is selected when the pairs are drawn anew, by direction
        """
        assert self.main_pairs  # before anything takes long
        if not is_main:
            if self.pairs_per_part:
                self._effects()
            if self.params.exhaustive:
                self._all_sets()
            return None
        effects, counts = cast("tuple[dict[str, Any], dict[str, Any]]", self._effects())
        heads = [head.name for head in self.targets["all_heads"]]
        verdict = verdicts(effects[self.main_edit], heads, self.params)
        content = {
            "fused": int(self.engine.impl == "fused"),
            "pairs": counts,
            "effects": effects,
            "verdict": verdict,
            "stability": stability(),
        }
        tables: dict[str, Rows] = {name: [] for name in TABLES}
        tables["head_positions"] = self._head_positions()
        if self.params.exhaustive:
            sets = cast("dict[str, dict[str, SubsetEffects]]", self._all_sets())  # none is missing in this process
            content["shapley"] = self._of_all_sets(sets, verdict, tables)
        _print_verdict(self.main_edit, verdict)
        return Results(content, tables)

    def _effects(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Rows of measures by edit, direction and target, and the numbers of pairs, of those with a wrong donor too."""
        shards = self.shards if self.pairs_per_part else None
        effects: dict[str, Any] = {}
        counts: dict[str, Any] = dict(self.usable.counts)
        for edit in sorted(self.usable.counts, key=lambda edit: edit != self.main_edit):
            if not self.usable.enough(edit, "confirm"):
                continue
            confirm = self.usable.groups[edit, "confirm"]
            rows, controlled = {}, {}
            for direction in DIRECTIONS:
                experiment = (
                    self.experiments[direction]["confirm"]
                    if edit == self.main_edit
                    else PairExperiment(self.engine, confirm, direction)
                )
                measured = measure_targets(experiment, self.targets, self.params, shards, self.pairs_per_part)
                if measured is not None:
                    rows[direction] = measured
                    controlled[direction] = len(experiment.wrong_donor()[0])
            if rows:
                effects[edit] = rows
                counts[edit] = {**counts[edit], "with_wrong_donor": controlled}
                _print_effects(edit, rows, len(confirm), controlled)
        return (effects, counts) if effects else None

    def _head_positions(self) -> Rows:
        rows: Rows = []
        for direction, by_split in self.experiments.items():
            experiment, labels = by_split["confirm"], self.labels
            if self.position_pairs is not None and len(experiment) > self.position_pairs:
                experiment = experiment.take(np.arange(self.position_pairs))
                labels = labels[: self.position_pairs]
            found = position_map(experiment, labels)
            rows += [
                {
                    "direction": direction,
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

    def _all_sets(self) -> dict[str, dict[str, SubsetEffects | None]]:
        """Every set of players on the first pairs of each split; None in all but the main process."""
        return {
            direction: {split: self._sets_of(experiment, split) for split, experiment in by_split.items()}
            for direction, by_split in self.experiments.items()
        }

    def _sets_of(self, experiment: PairExperiment, split: str) -> SubsetEffects | None:
        first = experiment.take(np.arange(min(self.params.exhaustive_pairs, len(experiment))))
        sets = 2 ** len(self.players)
        print(f"{experiment.direction}: all {sets} sets of heads on {len(first)} {split} pairs", flush=True)
        return measure_subsets(first, tuple(sorted(self.players)), self.shards, self.pairs_per_part)

    def _of_all_sets(
        self, sets: Mapping[str, Mapping[str, SubsetEffects]], verdict: Verdicts, tables: dict[str, Rows]
    ) -> dict[str, dict[str, Any]]:
        """Shapley values by direction and player. Fills in the tables of interactions and best sets, and adds to each
        player's verdict whether it is redundant.
        """
        params = self.params
        names = [head.name for head in sorted(self.players)]
        rng = np.random.default_rng(params.seed)
        denoising, noising = (sets[direction]["confirm"] for direction in DIRECTIONS)
        pvalues = redundancy_pvalues(denoising, noising, params.min_interaction, params.level, params.resamples, rng)
        for name, partners in zip(names, pvalues < params.level, strict=True):
            verdict[name]["redundant"] = int(partners.any())
        shapley = {}
        for direction, by_split in sets.items():
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
            best = self.compare_sets(by_split["select"], by_split["confirm"])
            tables["best_sets"] += [{"direction": direction, **row} for row in best]
            _print_optimism(direction, best)
        return shapley


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
            for name, row in _largest(by_target).items()
        ]
        headers = ["patched", "recovery", "wrong donor", "flips to donor", "keeps own", "KL", "p (Holm)"]
        print(tabulate(table, headers=headers, floatfmt=".3g"))
        if len(by_target) > len(table):
            print(f"and {len(by_target) - len(table)} others that recover less")


def _largest(by_target: Mapping[str, TargetRow]) -> dict[str, TargetRow]:
    """The MOST_ROWS rows of largest recovery, positive or negative, in the order that they came in."""
    ranked = sorted(by_target, key=lambda name: -abs(by_target[name]["recovery"]["value"]))[:MOST_ROWS]
    return {name: row for name, row in by_target.items() if name in ranked}


def _interval(estimate: Mapping[str, float] | None) -> str:
    return f"{estimate['value']:+.2f} [{estimate['low']:+.2f}, {estimate['high']:+.2f}]" if estimate else ""


def _print_optimism(direction: str, best: Rows) -> None:
    largest = max((row for row in best if "optimism" in row), key=lambda row: row["optimism"])
    print(
        f"{direction}: the best sets, chosen on select pairs, are worth up to {largest['optimism']:.3f} less on "
        f"confirm pairs (with {largest['size']} heads)"
    )


def _print_verdict(edit: str, verdict: Verdicts) -> None:
    print(f"\nVerdict on {edit} pairs")
    shown = {name: words for name, words in verdict.items() if len(verdict) <= MOST_ROWS or any(words.values())}
    print(tabulate([[name, in_words(words)] for name, words in shown.items()], headers=["head", ""]))
    if len(shown) < len(verdict):
        print(f"and {len(verdict) - len(shown)} others: neither")
