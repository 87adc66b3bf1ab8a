"""The heads of large effect, found without patching all, are those of patching all: on a planted circuit and a tiny
language model.
"""

import numpy as np
import pytest
from support.tiny_models import VOCAB, tiny_model

from pilot.experiments.effects import PairExperiment
from pilot.experiments.planted.circuits import draw_pairs, random_circuit
from pilot.experiments.planted.kinds import KINDS
from pilot.experiments.planted.weights import plant
from pilot.experiments.single_effects import Parts, exact_effects, verified_effects
from pilot.experiments.statistics import ratio_of_means
from pilot.inputs.pairs import DIRECTIONS, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.sweep import SweepEngine

PARTS = Parts(None, 8)
LEAST = 0.05


def planted(kind: str, seed: int) -> dict[str, PairExperiment]:
    rng = np.random.default_rng(seed)
    circuit = random_circuit(KINDS[kind], 6, 4, rng)
    engine, pairs = SweepEngine(plant(circuit, rng, noise=0.02)), draw_pairs(circuit, 96, rng)
    return {direction: PairExperiment(engine, pairs, direction) for direction in DIRECTIONS}


def language() -> dict[str, PairExperiment]:
    rng = np.random.default_rng(0)
    sides = rng.integers(VOCAB, size=(2, 64, 6)).tolist()
    pairs = [TokenPair(Prompt(tuple(a), (1,)), Prompt(tuple(b), (2,))) for a, b in zip(*sides, strict=True)]
    engine = SweepEngine(tiny_model("llama"))
    pairs = [pair for pair in pairs if PairExperiment(engine, [pair], "denoising").gap[0] > 0.5]
    return {direction: PairExperiment(engine, pairs, direction) for direction in DIRECTIONS}


def large(experiments, effects, least) -> set[str]:
    """Names of the heads that recover more than `least` in size in a direction."""
    recovery = [ratio_of_means(effects.change[direction], experiments[direction].gap) for direction in DIRECTIONS]
    return {head.name for (head,), size in zip(effects.heads, np.abs(recovery).max(0), strict=True) if size > least}


@pytest.mark.parametrize("kind", ["single", "and", "or", "chain"])
def test_the_heads_of_a_planted_circuit_are_found_for_less(kind):
    experiments = planted(kind, seed=1)
    whole = exact_effects(experiments, PARTS)
    found = verified_effects(experiments, LEAST, 0.05, 0, PARTS)
    wanted = large(experiments, whole, LEAST)
    assert wanted
    assert {head.name for (head,) in found.heads} == wanted
    assert found.search["share"] < 0.9
    for direction in DIRECTIONS:
        rows = [whole.heads.index(head) for head in found.heads]
        np.testing.assert_allclose(found.change[direction], whole.change[direction][rows], atol=1e-4)
