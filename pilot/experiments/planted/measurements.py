"""A planted circuit under the experiment: what is measured of it, and the words that its heads are given.

Shapes: n heads, T positions, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pilot.experiments.effects import PairExperiment
from pilot.experiments.evidence import Evidence, check_resamples, measure_evidence, redundancy_pvalues
from pilot.experiments.planted.circuits import SEQ_LEN, Circuit, draw_pairs
from pilot.experiments.planted.weights import plant
from pilot.experiments.statistics import adjusted, bootstrap_test
from pilot.experiments.subsets import SubsetEffects
from pilot.inputs.pairs import DIRECTIONS
from pilot.interventions import HeadPatch, Intervention, head_subsets, single_heads, single_positions
from pilot.sweep import SweepEngine

Words = dict[str, Intervention]


class Rule(NamedTuple):
    """What a word takes: see pilot.experiments.evidence."""

    min_effect: float
    min_interaction: float
    level: float
    resamples: int


def plant_and_pair(
    circuit: Circuit, n_pairs: int, noise: float, rng: np.random.Generator, impl: str = "auto"
) -> dict[str, PairExperiment]:
    """A circuit's experiments on the same pairs, by direction."""
    engine, pairs = SweepEngine(plant(circuit, rng, noise), impl), draw_pairs(circuit, n_pairs, rng)
    return {direction: PairExperiment(engine, pairs, direction) for direction in DIRECTIONS}


@dataclass(frozen=True, eq=False)
class HeadMeasurements:
    """Of every head alone, in each direction."""

    heads: Intervention
    evidence: dict[str, Evidence]

    @classmethod
    def of(cls, experiments: dict[str, PairExperiment]) -> HeadMeasurements:
        heads = single_heads(next(iter(experiments.values())).engine.model.config)
        evidence = {direction: measure_evidence(experiment, heads) for direction, experiment in experiments.items()}
        return cls(tuple(head for (head,) in heads), evidence)

    def words(self, index: np.ndarray, rule: Rule, rng: np.random.Generator) -> Words:
        """The heads called sufficient and necessary on the pairs of these numbers."""
        check_resamples(rule.resamples, len(self.heads), rule.level)
        names = {"denoising": "sufficient", "noising": "necessary"}
        found = {}
        for direction, evidence in self.evidence.items():
            pvalues = adjusted(evidence.take(index).pvalues(rule.min_effect, rule.resamples, rng), "holm")
            found[names[direction]] = _those(self.heads, pvalues < rule.level)
        return found


@dataclass(frozen=True, eq=False)
class SetMeasurements:
    """Of all sets of heads, in each direction."""

    subsets: dict[str, SubsetEffects]

    @classmethod
    def of(cls, experiments: dict[str, PairExperiment]) -> SetMeasurements:
        subsets = {}
        for direction, experiment in experiments.items():
            heads = tuple(head for (head,) in single_heads(experiment.engine.model.config))
            subsets[direction] = SubsetEffects(heads, experiment.changes(head_subsets(heads)), experiment.gap)
        return cls(subsets)

    def words(self, index: np.ndarray, rule: Rule, rng: np.random.Generator) -> Words:
        """The heads called redundant on the pairs of these numbers."""
        denoising, noising = (self.subsets[direction].take(index) for direction in DIRECTIONS)
        pvalues = redundancy_pvalues(denoising, noising, rule.min_interaction, rule.level, rule.resamples, rng)
        return {"redundant": _those(denoising.heads, pvalues.min(1) < rule.level)}


@dataclass(frozen=True, eq=False)
class PositionMeasurements:
    """Of every head at every position alone, by denoising: change (n * T, P), gap (P,)."""

    cells: Intervention
    change: np.ndarray
    gap: np.ndarray

    @classmethod
    def of(cls, experiment: PairExperiment) -> PositionMeasurements:
        cells = single_positions(experiment.engine.model.config, SEQ_LEN)
        return cls(tuple(cell for (cell,) in cells), experiment.changes(cells), experiment.gap)

    def words(self, index: np.ndarray, rule: Rule, rng: np.random.Generator) -> Words:
        """The positions with an effect above `min_effect`, on the pairs of these numbers."""
        check_resamples(rule.resamples, len(self.cells), rule.level)
        p = bootstrap_test(self.change[:, index], self.gap[index], rule.min_effect, rule.resamples, rng)
        return {"position": _those(self.cells, adjusted(p, "holm") < rule.level)}


def _those(patches: Intervention, chosen: np.ndarray) -> Intervention:
    return tuple(patch for patch, is_chosen in zip(patches, chosen, strict=True) if is_chosen)


def expected(circuit: Circuit, min_effect: float) -> Words:
    """What a circuit's heads should be called, by theory: like the `words` of the measurements."""
    everywhere = ("sufficient", "necessary", "redundant")
    words = {word: circuit.earned(word, min_effect) for word in (*everywhere, "position")}
    for word in everywhere:
        words[word] = tuple(HeadPatch(patch.layer, patch.head) for patch in words[word])
    return words
