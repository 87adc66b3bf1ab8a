"""Approximations held against exact patching on a pipeline's pairs: what both stages `attribution` measure and write.

Shapes: n heads, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

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
from pilot.inputs.pairs import DIRECTIONS, SPLITS
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
    """All heads by every method, on confirm pairs of each edit that has enough; and sets, on pairs of the main edit.

    set_heads   heads whose sets are all patched, on pairs of either split; of fewer than two heads none is

    Raises PilotError where the main edit has too few pairs.
    """
    for split in SPLITS:
        usable.need(main_edit, split)
    content: dict[str, Any] = {"top_k": params.top_k, "pairs": {}, "heads": {}}
    rows: list[dict[str, Any]] = []
    for edit in usable.counts:
        if usable.enough(edit, "confirm"):
            for experiment in _experiments(engine, usable, edit, "confirm", params.pairs):
                print(f"{edit} pairs, {experiment.direction}: {len(methods)} methods, and exact patching", flush=True)
                found = attributions(experiment, methods)
                content["pairs"][edit] = len(experiment)
                content["heads"].setdefault(edit, {})[experiment.direction] = compare_heads(
                    found, experiment.gap, params.top_k, min_effect, params.resamples, params.seed
                )
                rows += _rows(edit, experiment, found)
    if len(set_heads) > 1:
        content["sets"] = _sets(engine, usable, main_edit, set_heads, methods, params)
    return Results(content, rows)


def _experiments(engine: SweepEngine, usable: UsablePairs, edit: str, split: str, most: int) -> list[PairExperiment]:
    """In each direction, on the first pairs."""
    pairs = usable.need(edit, split)[:most]
    return [PairExperiment(engine, pairs, direction) for direction in DIRECTIONS]


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
    engine: SweepEngine,
    usable: UsablePairs,
    edit: str,
    heads: Intervention,
    methods: Mapping[str, Method],
    params: ApproximationParams,
) -> Scores:
    """By direction: sets are chosen on pairs of the select split and judged on the others."""
    members = [single_heads(engine.model).index((head,)) for head in heads]
    by_split = [_experiments(engine, usable, edit, split, params.set_pairs) for split in SPLITS]
    result = {}
    for select, confirm in zip(*by_split, strict=True):
        print(
            f"{select.direction}: all {2 ** len(heads)} sets of {len(heads)} heads on {len(select)} pairs", flush=True
        )
        subsets = [cast(SubsetEffects, measure_subsets(experiment, heads)) for experiment in (select, confirm)]
        found = {
            name: Attribution(change[members], cost) for name, (change, cost) in attributions(select, methods).items()
        }
        result[select.direction] = compare_sets(found, *subsets, params.budgets, params.repeats, params.seed)
    return result
