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
import torch
from tabulate import tabulate
from tqdm import tqdm

from pilot.errors import PilotError
from pilot.experiments.params import CounterfactualParams, PlantedParams, SweepParams
from pilot.experiments.planted.kinds import KINDS, WORDS
from pilot.experiments.planted.measurements import Rule
from pilot.experiments.planted.scores import Placement, Setting, covered, judge_null, judge_placement, power, rate
from pilot.experiments.statistics import Estimate, clustered_rate
from pilot.runtime.cli import Parser, command
from pilot.runtime.files import write_csv, write_json
from pilot.runtime.schema import load_section

NULLS = ("shared", "damage")
ENOUGH = 0.8  # of the samples, for the number of pairs that is called enough: the usual power of a study
POWER = ("word", "effect", "pairs", "value", "low", "high")

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
    setting = Setting(rule, params.noise, judged_by.exhaustive_pairs, impl)
    with _shared_work(args.processes) as each:
        results, curve = _results(params, setting, each)
    write_csv(args.metrics_dir / "planted_power.csv", POWER, curve)
    write_json(args.metrics_dir / "planted.json", results)
    _print(results)
    print(f"Wrote {args.metrics_dir / 'planted.json'}")


@contextmanager
def _shared_work(processes: int) -> Iterator[Each[Any]]:
    """Calls a function with each of many arguments, in processes of one thread each; results are in order."""

    def each(label: str, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        by_parameter = zip(*arguments, strict=True)
        results = pool.map(function, *by_parameter) if pool else map(function, *by_parameter)
        return list(tqdm(results, desc=label, total=len(arguments), unit="circuit", disable=None))

    threads = torch.get_num_threads()
    pool: ProcessPoolExecutor | None = None
    try:
        if processes > 1:
            pool = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
        torch.set_num_threads(1)
        yield each
    finally:
        torch.set_num_threads(threads)
        if pool:
            pool.shutdown(cancel_futures=True)


def _results(params: PlantedParams, setting: Setting, each: Each[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What planted.json and planted_power.csv hold."""

    def seeds(group: int, number: int) -> list[tuple[int, int, int]]:
        return [(params.seed, group, i) for i in range(number)]

    results: dict[str, Any] = {"placements": params.placements, "nulls": params.nulls, "circuits": {}, "stability": {}}
    for group, kind in enumerate(KINDS):
        tasks = [(kind, seed, params.pairs, setting) for seed in seeds(group, params.placements)]
        placements = each(kind, judge_placement, tasks)
        results["circuits"][kind] = {str(size): _words(placements, size) for size in params.pairs}
        if placements[0].stability[params.pairs[0]] is not None:
            results["stability"][kind] = {
                str(size): float(np.mean([placement.stability[size] for placement in placements]))
                for size in params.pairs
            }
    results["false_positives"] = {}
    for group, kind in enumerate(NULLS, start=len(KINDS)):
        tasks = [(kind, seed, params.null_pairs, setting) for seed in seeds(group, params.nulls)]
        mistaken = each(f"no heads: {kind}", judge_null, tasks)
        results["false_positives"][kind] = {
            str(params.null_pairs): {word: asdict(rate(null[word] for null in mistaken)) for word in mistaken[0]}
        }
    each_kind = -(-params.simulations // len(KINDS))
    results["simulations"] = each_kind * len(KINDS)
    group = len(KINDS) + len(NULLS)
    tasks = [
        (kind, seed, params.coverage_pairs, each_kind, setting)
        for kind, seed in zip(KINDS, seeds(group, len(KINDS)), strict=True)
    ]
    results["coverage"] = _coverage(each("coverage", covered, tasks))
    tasks = [
        (effect, seed, params.power_pairs, params.power_samples, setting)
        for effect, seed in zip(params.power_effects, seeds(group + 1, len(params.power_effects)), strict=True)
    ]
    powers = dict(zip(params.power_effects, each("power", power, tasks), strict=True))
    curve = [
        {"word": word, "effect": effect, "pairs": pairs, **asdict(estimate)}
        for effect, by_word in powers.items()
        for word, by_pairs in by_word.items()
        for pairs, estimate in by_pairs.items()
    ]
    results["power"] = _enough(powers)
    return results, curve


def _words(placements: Sequence[Placement], size: int) -> dict[str, dict[str, float]]:
    counts = {}
    for word in WORDS:
        tallies = [placement.tallies[size][word] for placement in placements]
        earned, right, false = (sum(getattr(tally, name) for tally in tallies) for name in ("earned", "right", "false"))
        exact = float(np.mean([tally.right == tally.earned and not tally.false for tally in tallies]))
        counts[word] = {
            "earned": earned, "right": right, "missed": earned - right, "false": false, "exact": exact
        }  # fmt: skip
    return counts


def _coverage(by_kind: Sequence[Mapping[str, Mapping[int, np.ndarray]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Over all intervals of all samples; those of one sample are related."""
    coverage: dict[str, dict[str, dict[str, float]]] = {}
    for name, by_size in by_kind[0].items():
        coverage[name] = {}
        for size in by_size:
            held = [sample for covered in by_kind for sample in covered[name][size]]
            sample = np.repeat(np.arange(len(held)), [len(intervals) for intervals in held])
            coverage[name][str(size)] = asdict(clustered_rate(np.concatenate(held), sample))
    return coverage


def _enough(powers: Mapping[float, Mapping[str, Mapping[int, Estimate]]]) -> dict[str, dict[str, int]]:
    """By word and effect the fewest pairs of those tried that are enough; none of them: the effect is left out."""
    enough: dict[str, dict[str, int]] = {}
    for effect, by_word in powers.items():
        for word, by_pairs in by_word.items():
            found = enough.setdefault(word, {})
            if sizes := [size for size, estimate in by_pairs.items() if estimate.value >= ENOUGH]:
                found[f"{effect:g}"] = min(sizes)
    return enough


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
    print(f"\nPairs at which a head gets its word in {ENOUGH:.0%} of samples, by its recovery")
    rows = [
        [word, effect, pairs] for word, by_effect in results["power"].items() for effect, pairs in by_effect.items()
    ]
    print(tabulate(rows, headers=["word", "recovery", "pairs"], disable_numparse=True))


def _counts(counts: Mapping[str, float]) -> str:
    """ "98 of 100, 1 false" """
    return f"{counts['right']} of {counts['earned']}" + (f", {counts['false']} false" if counts["false"] else "")


if __name__ == "__main__":
    raise SystemExit(main())
