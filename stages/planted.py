"""Stage `planted`: are heads that were planted by hand given the words that they should have, and no others?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from pilot.errors import PilotError
from pilot.experiments.params import CounterfactualParams, PlantedParams, SweepParams
from pilot.experiments.planted.kinds import KINDS, WORDS
from pilot.experiments.planted.measurements import Rule
from pilot.experiments.planted.scores import (
    Covered,
    Placement,
    Setting,
    covered,
    judge_effect,
    judge_null,
    judge_placement,
    rate,
)
from pilot.experiments.statistics import Estimate, clustered_rate
from pilot.runtime.cli import Parser, command
from pilot.runtime.files import write_csv, write_json
from pilot.runtime.schema import load_section

NULLS = ("shared", "damage")
ENOUGH = 0.8  # of the circuits, for the number of pairs that is called enough: the usual power of a study
POWER = ("word", "effect", "pairs", "value", "low", "high")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

T = TypeVar("T")
Each = Callable[[str, Callable[..., T], Sequence[tuple[Any, ...]]], list[T]]  # a label, a function, its arguments


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.planted", description=__doc__)
    parser.add_config()
    parser.add_argument("--metrics-dir", type=Path, default=Path("metrics"), help="(default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="that share the work (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.processes < 1:
        raise PilotError(f"--processes {args.processes}: must be at least 1")
    params = load_section(args.config, "planted", PlantedParams)
    judged_by = load_section(args.config, "counterfactual", CounterfactualParams)
    rule = Rule(judged_by.min_effect, judged_by.min_interaction, judged_by.level, params.resamples)
    impl = load_section(args.config, "sweep", SweepParams).impl
    setting = Setting(rule, params.noise, judged_by.exhaustive_pairs, params.population, impl)
    seeds = _Seeds(params.seed)
    with _shared_work(args.processes) as each:
        results = _circuits(params, setting, seeds, each)
        results |= _false_positives(params, setting, seeds, each)
        results |= _coverage(params, setting, seeds, each)
        power_results, curve = _power(params, setting, seeds, each)
    results |= power_results
    write_csv(args.metrics_dir / "planted_power.csv", POWER, curve)
    write_json(args.metrics_dir / "planted.json", results)
    _print(results)
    print(f"Wrote {args.metrics_dir / 'planted.json'}")


@contextmanager
def _shared_work(processes: int) -> Iterator[Each[Any]]:
    """Calls a function with each of many arguments, in processes of one thread each; results are in order.

    Threads share such small products at a loss, and round them otherwise: a single process is one of its own as well,
    so that results have the same bytes with any number of them.
    """

    def each(label: str, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        results = pool.map(function, *zip(*arguments, strict=True))
        return list(tqdm(results, desc=label, total=len(arguments), unit="circuit", disable=None))

    pool = ProcessPoolExecutor(processes, get_context("spawn"))
    before = dict(os.environ)
    os.environ.update(ONE_THREAD)  # for NumPy and PyTorch to read where a process loads them
    try:
        yield each
    finally:
        pool.shutdown(cancel_futures=True)
        for name in ONE_THREAD:
            del os.environ[name]
        os.environ.update(before)


class _Seeds:
    """A seed of its own for every circuit, by the group that it belongs to."""

    def __init__(self, seed: int):
        self.seed, self.groups = seed, 0

    def group(self, size: int) -> list[tuple[int, int, int]]:
        self.groups += 1
        return [(self.seed, self.groups, i) for i in range(size)]


def _circuits(params: PlantedParams, setting: Setting, seeds: _Seeds, each: Each[Placement]) -> dict[str, Any]:
    """How well the words fit, by kind of circuit, number of pairs and word; and how stable a selection would be."""
    circuits: dict[str, dict[str, Any]] = {}
    stability: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        tasks = [(kind, seed, params.pairs, setting) for seed in seeds.group(params.placements)]
        placements = each(kind, judge_placement, tasks)
        circuits[kind] = {str(size): _words(placements, size) for size in params.pairs}
        for size in params.pairs:
            shares = [placement.stability[size] for placement in placements]
            if known := [share for share in shares if share is not None]:
                stability.setdefault(kind, {})[str(size)] = float(np.mean(known))
    return {"placements": params.placements, "circuits": circuits, "stability": stability}


def _false_positives(
    params: PlantedParams, setting: Setting, seeds: _Seeds, each: Each[dict[str, bool]]
) -> dict[str, Any]:
    """How often a word is given wrongly in a circuit, by kind of null circuit, number of pairs and word."""
    rates = {}
    for kind in NULLS:
        tasks = [(kind, seed, params.null_pairs, setting) for seed in seeds.group(params.nulls)]
        mistaken = each(f"no heads: {kind}", judge_null, tasks)
        rates[kind] = {
            str(params.null_pairs): {word: asdict(rate(null[word] for null in mistaken)) for word in mistaken[0]}
        }
    return {"nulls": params.nulls, "false_positives": rates}


def _coverage(params: PlantedParams, setting: Setting, seeds: _Seeds, each: Each[Covered]) -> dict[str, Any]:
    """How often intervals hold the truth, by what they are of and the number of pairs."""
    simulations = -(-params.simulations // len(KINDS))
    tasks = [
        (kind, seed, params.coverage_pairs, simulations, setting)
        for kind, seed in zip(KINDS, seeds.group(len(KINDS)), strict=True)
    ]
    by_kind = each("coverage", covered, tasks)
    coverage: dict[str, dict[str, dict[str, float]]] = {}
    for name, by_size in by_kind[0].items():
        coverage[name] = {}
        for size in by_size:
            held = [sample for of_kind in by_kind for sample in of_kind[name][size]]
            sample = np.repeat(np.arange(len(held)), [len(intervals) for intervals in held])
            coverage[name][str(size)] = asdict(clustered_rate(np.concatenate(held), sample))
    return {"simulations": simulations * len(KINDS), "coverage": coverage}


def _power(
    params: PlantedParams, setting: Setting, seeds: _Seeds, each: Each[dict[str, dict[int, bool]]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fewest of the numbers of pairs that are enough, by word and effect, where any is; and the whole curve."""
    curve = []
    enough: dict[str, dict[str, int]] = {"sufficient": {}, "necessary": {}}
    for effect in params.power_effects:
        tasks = [(effect, seed, params.power_pairs, setting) for seed in seeds.group(params.power_circuits)]
        judged = each(f"recovery {effect:g}", judge_effect, tasks)
        for word, by_effect in enough.items():
            for pairs in sorted(params.power_pairs):
                found = rate(of_circuit[word][pairs] for of_circuit in judged)
                curve.append({"word": word, "effect": effect, "pairs": pairs, **asdict(found)})
                if found.value >= ENOUGH:
                    by_effect.setdefault(f"{effect:g}", pairs)
    return {"power": enough}, curve


def _words(placements: Sequence[Placement], size: int) -> dict[str, dict[str, float]]:
    counts: dict[str, dict[str, float]] = {}
    for word in WORDS:
        tallies = [placement.tallies[size][word] for placement in placements]
        earned, right, false = (sum(getattr(tally, name) for tally in tallies) for name in ("earned", "right", "false"))
        exact = float(np.mean([tally.right == tally.earned and not tally.false for tally in tallies]))
        counts[word] = {
            "earned": earned, "right": right, "missed": earned - right, "false": false, "exact": exact
        }  # fmt: skip
    return counts


def _print(results: Mapping[str, Any]) -> None:
    print(f"Heads given each word, of those that should have it, in {results['placements']} circuits of each kind")
    rows = [
        [kind, size, *(_counts(by_word[word]) for word in WORDS)]
        for kind, by_size in results["circuits"].items()
        for size, by_word in by_size.items()
    ]
    print(tabulate(rows, headers=["circuit", "pairs", *WORDS], disable_numparse=True))
    print(f"\nShare of {results['nulls']} circuits in which a head gets a word that it should not, with 95 % interval")
    rows = [
        [kind, size, word, f"{Estimate(**value):.3f}"]
        for kind, by_size in results["false_positives"].items()
        for size, by_word in by_size.items()
        for word, value in by_word.items()
    ]
    print(tabulate(rows, headers=["circuit", "pairs", "word", "share"], disable_numparse=True))
    print(f"\nShare of 95 % intervals that hold the truth, in {results['simulations']} samples")
    rows = [
        [name, size, f"{Estimate(**value):.3f}"]
        for name, by_size in results["coverage"].items()
        for size, value in by_size.items()
    ]
    print(tabulate(rows, headers=["interval of", "pairs", "share"], disable_numparse=True))
    print(f"\nPairs at which a head gets its word in {ENOUGH:.0%} of circuits, by its recovery")
    rows = [
        [word, effect, pairs] for word, by_effect in results["power"].items() for effect, pairs in by_effect.items()
    ]
    print(tabulate(rows, headers=["word", "recovery", "pairs"], disable_numparse=True))


def _counts(counts: Mapping[str, float]) -> str:
    """ "98 of 100, 1 false" """
    return f"{counts['right']} of {counts['earned']}" + (f", {counts['false']} false" if counts["false"] else "")


if __name__ == "__main__":
    raise SystemExit(main())
