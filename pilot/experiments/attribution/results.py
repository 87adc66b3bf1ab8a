"""Approximations held against exact patching on a pipeline's pairs: what both stages `attribution` measure and write.

Shapes: n heads, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from pydantic import AfterValidator, Field
from tabulate import tabulate

from pilot.errors import PilotError
from pilot.experiments.attribution.comparison import EXACT, Scores, attributions, compare_heads, compare_sets
from pilot.experiments.attribution.methods import Attribution, Method, method_named
from pilot.experiments.effects import PairExperiment
from pilot.experiments.pairs import UsablePairs
from pilot.experiments.params import ApproximationParams
from pilot.experiments.statistics import ratio_of_means
from pilot.experiments.subsets import SubsetEffects, measure_subsets
from pilot.inputs.pairs import DIRECTIONS
from pilot.interventions import Intervention, single_heads
from pilot.runtime.files import write_csv, write_json
from pilot.sweep import SweepEngine

COLUMNS = ("edit", "direction", "method", "cost", "head", "value", "error")


def _known(name: str) -> str:
    try:
        method_named(name)
    except PilotError as error:
        raise ValueError(error) from None
    return name


class LanguageAttributionParams(ApproximationParams):
    """Section `attribution` of a language pipeline."""

    methods: Annotated[list[Annotated[str, AfterValidator(_known)]], Field(min_length=1)]


@dataclass(frozen=True)
class Results:
    """What is written as attribution.json, and the rows of attribution.csv: recovery of every head by every method.

    "pairs" is their number by edit; "heads" is what `compare_heads` says, by edit and direction; "sets" what
    `compare_sets` says, by direction, if sets were measured.
    """

    content: dict[str, Any]
    rows: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        write_csv(folder / "attribution.csv", COLUMNS, self.rows)
        write_json(folder / "attribution.json", self.content)

    def print(self) -> None:
        """How far each method is from exact patching, the cheapest first."""
        for edit, by_direction in self.content["heads"].items():
            for direction, methods in by_direction.items():
                print(f"\n{edit} pairs, {direction}: {self.content['pairs'][edit]} pairs, held against exact patching")
                measures = [measure for measure in methods[EXACT] if measure != "cost"]
                table = [
                    [name, scores["cost"], *(scores[measure]["value"] for measure in measures)]
                    for name, scores in sorted(methods.items(), key=lambda item: item[1]["cost"])
                ]
                print(tabulate(table, headers=["method", "forwards", *measures], floatfmt=".3g"))


def hold_against_exact(
    engine: SweepEngine,
    usable: UsablePairs,
    main_edit: str,
    set_heads: Intervention,
    methods: Mapping[str, Method],
    params: ApproximationParams,
    min_effect: float,
) -> Results:
    """All heads by every method, on select pairs of each edit that has enough; and sets, on pairs of the main edit.

    set_heads   heads whose sets are all patched, chosen by their scores on select pairs and judged on confirm pairs; of
                fewer than two heads none is

    Raises PilotError where the main edit has too few pairs.
    """
    held_out = usable.need(main_edit, "confirm")[: params.set_pairs]
    content: dict[str, Any] = {"top_k": params.top_k, "pairs": {}, "heads": {}}
    sets: Scores = {}
    rows: list[dict[str, Any]] = []
    for edit in dict.fromkeys((main_edit, *usable.counts)):
        if edit != main_edit and not usable.enough(edit, "select"):
            continue
        pairs = usable.need(edit, "select")[: params.pairs]
        content["pairs"][edit] = len(pairs)
        for direction in DIRECTIONS:
            experiment = PairExperiment(engine, pairs, direction)
            print(f"{edit} pairs, {direction}: {len(methods)} methods, and exact patching", flush=True)
            found = attributions(experiment, methods)
            content["heads"].setdefault(edit, {})[direction] = compare_heads(
                found, experiment.gap, params.top_k, min_effect, params.resamples, params.seed
            )
            rows += _rows(edit, experiment, found)
            if edit == main_edit and len(set_heads) > 1:
                print(f"{2 ** len(set_heads)} sets of heads", flush=True)
                chosen_on = experiment.take(np.arange(min(params.set_pairs, len(pairs))))
                sets[direction] = _sets(
                    found, chosen_on, PairExperiment(engine, held_out, direction), set_heads, params
                )
    return Results(content | ({"sets": sets} if sets else {}), rows)


def _rows(edit: str, experiment: PairExperiment, found: Mapping[str, Attribution]) -> Iterator[dict[str, Any]]:
    """Recovery of every head by every method, and its difference from the exact one."""
    truth = ratio_of_means(found[EXACT].change, experiment.gap)
    for method, (change, cost) in found.items():
        values = ratio_of_means(change, experiment.gap)
        for (head,), value, exact in zip(single_heads(experiment.engine.model), values, truth, strict=True):
            yield {
                "edit": edit,
                "direction": experiment.direction,
                "method": method,
                "cost": cost,
                "head": head.name,
                "value": value,
                "error": value - exact,
            }


def _sets(
    found: Mapping[str, Attribution],
    chosen_on: PairExperiment,
    judged_on: PairExperiment,
    heads: Intervention,
    params: ApproximationParams,
) -> Scores:
    """What `compare_sets` says of the sets of some heads.

    found   of all heads, on more pairs than those of `chosen_on`, which come first
    """
    order = single_heads(chosen_on.engine.model)
    members, pairs = [order.index((head,)) for head in heads], slice(len(chosen_on))
    theirs = {name: Attribution(change[members, pairs], cost) for name, (change, cost) in found.items()}
    select, confirm = (cast(SubsetEffects, measure_subsets(experiment, heads)) for experiment in (chosen_on, judged_on))
    return compare_sets(theirs, select, confirm, params.budgets, params.repeats, params.resamples, params.seed)
