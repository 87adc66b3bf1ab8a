"""How well the experiment's rule gives planted heads the words that they should have, and no others.

    placements   circuits of every kind at random places: which heads are called what, and which should be
    nulls        circuits in which no head should have a word: how often one gets it all the same
    coverage     how often 95 % intervals hold the truth, in samples from many pairs of which the truth is known
    effects      heads of a given recovery: how many pairs it takes to find them

Every function works on one circuit and takes a seed, so that circuits can be shared out among processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pilot.experiments.planted.circuits import random_circuit
from pilot.experiments.planted.kinds import KINDS, WORDS, shared
from pilot.experiments.planted.measurements import (
    HeadMeasurements,
    PositionMeasurements,
    Rule,
    SetMeasurements,
    Words,
    expected,
    plant_and_pair,
)
from pilot.experiments.shapley import shapley
from pilot.experiments.statistics import Estimate, bootstrap_ratio, clustered_rate, selection_frequency
from pilot.interventions import HeadPatch

SIZES = ((2, 4), (4, 2), (3, 3))  # layers and heads, few enough heads for all their sets
NULL_SIZE = (5, 2)  # ten heads share the answer

Seed = Sequence[int]
Covered = dict[str, dict[int, np.ndarray]]


@dataclass(frozen=True)
class Setting:
    """What circuits are judged by.

    noise        see pilot.experiments.planted.weights.plant
    set_pairs    sets of heads, and positions, are patched on at most so many pairs
    population   pairs that samples are drawn from to see what intervals cover
    """

    rule: Rule
    noise: float
    set_pairs: int
    population: int
    impl: str = "auto"


@dataclass(frozen=True)
class Tally:
    """Heads that should have a word (earned), those of them that are given it (right), and others given it (false)."""

    earned: int
    right: int
    false: int

    @classmethod
    def of(cls, found: Words, wanted: Words, word: str) -> Tally:
        given, deserving = set(found[word]), set(wanted[word])
        return cls(len(deserving), len(given & deserving), len(given - deserving))


@dataclass(frozen=True)
class Placement:
    """A circuit as judged on each number of pairs: every word's tally, and how stable its sufficient heads are.

    stability   the mean share of resamples in which a sufficient head is among the most effective ones, as many as
                there are such heads; None for a circuit without
    """

    tallies: dict[int, dict[str, Tally]]
    stability: dict[int, float | None]


def judge_placement(kind: str, seed: Seed, sample_sizes: Sequence[int], setting: Setting) -> Placement:
    rng = np.random.default_rng(seed)
    circuit = random_circuit(KINDS[kind], *SIZES[rng.integers(len(SIZES))], rng)
    experiments = plant_and_pair(circuit, max(sample_sizes), setting.noise, rng, setting.impl)
    first = np.arange(min(setting.set_pairs, max(sample_sizes)))
    on_first = {direction: experiment.take(first) for direction, experiment in experiments.items()}
    of_heads = HeadMeasurements.of(experiments)
    others = SetMeasurements.of(on_first), PositionMeasurements.of(on_first["denoising"])
    wanted = expected(circuit, setting.rule.min_effect)
    tallies, stability = {}, {}
    for size in sample_sizes:
        found = of_heads.words(np.arange(size), setting.rule, rng)
        for measurements in others:
            found |= measurements.words(first[:size], setting.rule, rng)
        tallies[size] = {word: Tally.of(found, wanted, word) for word in WORDS}
        stability[size] = _stability(of_heads, wanted, size, setting.rule, rng)
    return Placement(tallies, stability)


def _stability(
    measured: HeadMeasurements, wanted: Words, size: int, rule: Rule, rng: np.random.Generator
) -> float | None:
    sufficient = np.array([head in wanted["sufficient"] for head in measured.heads])
    if not sufficient.any():
        return None
    effects = measured.evidence["denoising"].change[:, :size]
    return float(selection_frequency(effects, int(sufficient.sum()), rule.resamples, rng)[sufficient].mean())


def judge_null(kind: str, seed: Seed, pairs: int, setting: Setting) -> dict[str, bool]:
    """Whether any head of a circuit gets a word that it should not have, by the words that the circuit tempts to.

    "shared"   ten heads recover `min_effect` each, which is not above it: none is sufficient or necessary
    "damage"   the circuit of that name: two heads have effects from any donor and are not sufficient; the effects of
               sets do not add up, but no heads are redundant
    """
    rng = np.random.default_rng(seed)
    if kind == "shared":
        circuit = random_circuit(shared(NULL_SIZE[0] * NULL_SIZE[1], setting.rule.min_effect), *NULL_SIZE, rng)
    else:
        circuit = random_circuit(KINDS[kind], *SIZES[rng.integers(len(SIZES))], rng)
    experiments = plant_and_pair(circuit, pairs, setting.noise, rng, setting.impl)
    found = HeadMeasurements.of(experiments).words(np.arange(pairs), setting.rule, rng)
    if kind == "damage":
        del found["necessary"]
        found |= SetMeasurements.of(experiments).words(np.arange(pairs), setting.rule, rng)
    wanted = expected(circuit, setting.rule.min_effect)
    return {word: Tally.of(found, wanted, word).false > 0 for word in found}


def covered(kind: str, seed: Seed, sample_sizes: Sequence[int], simulations: int, setting: Setting) -> Covered:
    """Which 95 % intervals of a circuit's recoveries and Shapley values hold the truth: by name ("recovery" or
    "shapley") and number of pairs (simulations, intervals) bool.

    Samples of pairs are drawn from a population, whose own ratio of means is the truth.
    """
    rng = np.random.default_rng(seed)
    circuit = random_circuit(KINDS[kind], *SIZES[0], rng)
    experiments = plant_and_pair(circuit, setting.population, setting.noise, rng, setting.impl)
    one = {"denoising": experiments["denoising"]}
    recovery, subsets = HeadMeasurements.of(one).evidence["denoising"].change, SetMeasurements.of(one).subsets
    changes = np.stack([recovery, shapley(subsets["denoising"].change)])
    gap = experiments["denoising"].gap
    truth = changes.sum(2) / gap.sum()
    result: Covered = {"recovery": {}, "shapley": {}}
    for size in sample_sizes:
        index = rng.integers(setting.population, size=(simulations, size))
        estimates = [bootstrap_ratio(changes[..., i], gap[i], setting.rule.resamples, rng) for i in index]
        held = np.array([(estimate.low <= truth) & (truth <= estimate.high) for estimate in estimates])
        for number, by_size in enumerate(result.values()):
            by_size[size] = held[:, number]
    return result


def judge_effect(
    recovery: float, seed: Seed, sample_sizes: Sequence[int], setting: Setting
) -> dict[str, dict[int, bool]]:
    """Whether a head of this recovery, the others sharing the rest, gets its words: by word and number of pairs."""
    rng = np.random.default_rng(seed)
    circuit = random_circuit(shared(NULL_SIZE[0] * NULL_SIZE[1], recovery), *NULL_SIZE, rng)
    measured = HeadMeasurements.of(plant_and_pair(circuit, max(sample_sizes), setting.noise, rng, setting.impl))
    head = HeadPatch(circuit.heads[0].layer, circuit.heads[0].head)
    found = {size: measured.words(np.arange(size), setting.rule, rng) for size in sample_sizes}
    return {word: {size: head in found[size][word] for size in sample_sizes} for word in ("sufficient", "necessary")}


def rate(successes: Iterable[bool]) -> Estimate:
    """A share of independent trials, with its Wilson interval."""
    trials = np.array(list(successes), dtype=bool)
    return clustered_rate(trials, np.arange(len(trials)))
