"""Stage `attribution`: what cheap approximations of patching would have said, held against the exact results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from tabulate import tabulate
from tqdm import tqdm

from pilot.arithmetic.edits import MAIN_EDIT
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.experiments.attribution.blindness import CIRCUITS, sight, total_sight
from pilot.experiments.attribution.comparison import (
    EXACT,
    Scores,
    attributions,
    compare_heads,
    compare_sets,
)
from pilot.experiments.attribution.methods import Attribution
from pilot.experiments.effects import PairExperiment
from pilot.experiments.pairs import UsablePairs, usable_pairs
from pilot.experiments.params import AttributionParams, CounterfactualParams, SweepParams
from pilot.experiments.statistics import ratio_of_means
from pilot.experiments.subsets import SubsetEffects, measure_subsets
from pilot.inputs.pairs import DIRECTIONS, SPLITS
from pilot.interventions import single_heads
from pilot.models.checkpoint import load_model
from pilot.runtime.cli import Parser, command, resolve_device
from pilot.runtime.files import write_csv, write_json
from pilot.runtime.schema import load_section
from pilot.sweep import SweepEngine

COLUMNS = ("edit", "direction", "method", "cost", "head", "value", "error")


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.attribution", description=__doc__)
    parser.add_config()
    parser.add_argument("--checkpoint", type=Path, required=True, help="such as runs/pilot/checkpoint_best.pt")
    parser.add_argument("--pairs", type=Path, default=Path("data/pilot_pairs.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_device()
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    params = load_section(args.config, "attribution", AttributionParams)
    judged_by = load_section(args.config, "counterfactual", CounterfactualParams)
    impl = load_section(args.config, "sweep", SweepParams).impl
    model = load_model(args.checkpoint, device)
    engine = SweepEngine(model, impl)
    pairs = token_pairs(read_pairs(args.pairs, model.config.context))
    usable = usable_pairs(engine, pairs, judged_by.min_logit_gap)
    for split in SPLITS:
        usable.need(MAIN_EDIT, split)

    results: dict[str, Any] = {"top_k": params.top_k, "pairs": {}, "heads": {}}
    rows: list[dict[str, Any]] = []
    for edit in usable.counts:
        if usable.enough(edit, "confirm"):
            for experiment in _experiments(engine, usable, edit, "confirm", params.pairs):
                found = attributions(experiment, params.steps)
                results["pairs"][edit] = len(experiment)
                results["heads"].setdefault(edit, {})[experiment.direction] = compare_heads(
                    found, experiment.gap, params.top_k, judged_by.min_effect, params.resamples, params.seed
                )
                rows += _rows(edit, experiment, found)
    if judged_by.exhaustive:
        results["sets"] = _sets(engine, usable, params)
    results["planted"] = _planted(params, judged_by.min_effect, impl)
    _print(results)
    write_csv(args.metrics_dir / "attribution.csv", COLUMNS, rows)
    write_json(args.metrics_dir / "attribution.json", results)
    print(f"Wrote {args.metrics_dir / 'attribution.json'}")


def _experiments(engine: SweepEngine, usable: UsablePairs, edit: str, split: str, most: int) -> list[PairExperiment]:
    """In each direction, on the first pairs."""
    pairs = usable.need(edit, split)[:most]
    return [PairExperiment(engine, pairs, direction) for direction in DIRECTIONS]


def _rows(edit: str, experiment: PairExperiment, found: Mapping[str, Attribution]) -> Iterable[dict[str, Any]]:
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


def _sets(engine: SweepEngine, usable: UsablePairs, params: AttributionParams) -> Scores:
    """By direction, on regroup pairs: sets are chosen on those of the select split and judged on the others."""
    heads = tuple(head for (head,) in single_heads(engine.model))
    by_split = [_experiments(engine, usable, MAIN_EDIT, split, params.set_pairs) for split in SPLITS]
    result = {}
    for select, confirm in zip(*by_split, strict=True):
        print(f"{select.direction}: all {2 ** len(heads)} sets of heads on {len(select)} pairs", flush=True)
        subsets = [cast(SubsetEffects, measure_subsets(experiment, heads)) for experiment in (select, confirm)]
        result[select.direction] = compare_sets(
            attributions(select, params.steps), *subsets, params.budgets, params.repeats, params.resamples, params.seed
        )
    return result


def _planted(params: AttributionParams, min_effect: float, impl: str) -> Scores:
    """By circuit, direction and method."""
    return {
        circuit: total_sight(
            sight(circuit, (params.seed, number, place), params.planted_pairs, params.steps, min_effect, impl)
            for place in range(params.placements)
        )
        for number, circuit in enumerate(tqdm(CIRCUITS, desc="planted circuits", disable=None))
    }


def _print(results: Mapping[str, Any]) -> None:
    for edit, by_direction in results["heads"].items():
        for direction, methods in by_direction.items():
            print(f"\n{edit} pairs, {direction}: {results['pairs'][edit]} pairs, held against exact patching")
            measures = [measure for measure in methods[EXACT] if measure != "cost"]
            table = [
                [name, scores["cost"], *(scores[measure]["value"] for measure in measures)]
                for name, scores in sorted(methods.items(), key=lambda item: item[1]["cost"])
            ]
            print(tabulate(table, headers=["method", "forwards", *measures], floatfmt=".3g"))


if __name__ == "__main__":
    raise SystemExit(main())
