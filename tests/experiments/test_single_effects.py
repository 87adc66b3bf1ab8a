"""The heads of large effect, found without patching all, are those of patching all: on a planted circuit and a tiny
language model.
"""

import numpy as np
import pytest
from support.tiny_models import VOCAB, tiny_model

from pilot.errors import PilotError
from pilot.experiments.attribution.methods import integrated_gradients
from pilot.experiments.effects import PairExperiment
from pilot.experiments.planted.circuits import draw_pairs, random_circuit
from pilot.experiments.planted.kinds import KINDS
from pilot.experiments.planted.weights import plant
from pilot.experiments.players import PlayersParams, choose_players
from pilot.experiments.single_effects import APPROXIMATION_COST, STEPS, Parts, exact_effects, verified_effects
from pilot.experiments.statistics import ratio_of_means
from pilot.inputs.pairs import DIRECTIONS, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.runtime.shards import Shards
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


@pytest.fixture(scope="module")
def experiments() -> dict[str, PairExperiment]:
    return language()


CHOICE = PlayersParams(method="attribution+verify", min_recovery=0.2, miss_rate=0.05, seed=0, resamples=200, players=8)


def test_the_players_are_those_of_patching_every_head_above_the_threshold(experiments):
    exact = choose_players(experiments, CHOICE.model_copy(update={"method": "exact"}), None, 8)
    assert "search" not in exact
    selection = choose_players(experiments, CHOICE, None, 8)
    recovery = selection["recovery"]["denoising"]
    wanted = large(experiments, exact_effects(experiments, PARTS), CHOICE.min_recovery)
    assert 0 < len(wanted) < 8
    assert set(recovery) == set(selection["player"]) == wanted
    assert list(selection["player"]) == [name for name in exact["player"] if name in wanted]
    for direction in DIRECTIONS:
        for name, row in selection["recovery"][direction].items():
            assert row["value"] == pytest.approx(exact["recovery"][direction][name]["value"], abs=1e-4)
        estimated = selection["search"]["estimated"][direction]
        assert estimated.keys() == exact["recovery"][direction].keys() - wanted
        for name, row in estimated.items():
            assert row["low"] - 1e-4 <= exact["recovery"][direction][name]["value"] <= row["high"] + 1e-4


def test_a_killed_search_resumes_and_patches_the_same(experiments, tmp_path, monkeypatch):
    whole = verified_effects(experiments, 0.2, 0.05, 0, PARTS)
    parts = Parts(Shards(tmp_path / "state", "key"), 8)
    patch, sweeps = PairExperiment.changes, []

    def dying(experiment, heads, donor=None):
        if len(sweeps) == 3:
            raise KeyboardInterrupt
        sweeps.append(len(heads))
        return patch(experiment, heads, donor)

    monkeypatch.setattr(PairExperiment, "changes", dying)
    with pytest.raises(KeyboardInterrupt):
        verified_effects(experiments, 0.2, 0.05, 0, parts)
    monkeypatch.setattr(PairExperiment, "changes", patch)
    shards = set((tmp_path / "state").iterdir())
    resumed = verified_effects(experiments, 0.2, 0.05, 0, parts)
    assert shards < set((tmp_path / "state").iterdir())
    assert resumed.search == whole.search
    for direction in DIRECTIONS:
        np.testing.assert_array_equal(resumed.change[direction], whole.change[direction])


def test_what_the_approximation_costs(experiments):
    assert integrated_gradients(experiments["noising"], STEPS, "inputs").cost == APPROXIMATION_COST


def test_where_no_head_is_large_that_is_said(experiments):
    with pytest.raises(PilotError, match=r"no head recovers more than 0\.99: lower min_recovery"):
        verified_effects({"noising": experiments["noising"]}, 0.99, 0.05, 0, PARTS)
