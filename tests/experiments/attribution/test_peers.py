"""The same numbers as other libraries, where the extra `peers` is installed."""

import numpy as np
import pytest
import torch
from support.tiny_language import tiny_llama, word_tokenizer

from pilot.experiments.attribution.methods import attribution_patching
from pilot.experiments.attribution.sets import kernel_shap, permutation_shapley
from pilot.experiments.effects import PairExperiment
from pilot.experiments.shapley import shapley, shapley_interactions
from pilot.inputs.pairs import DIRECTIONS, ROLES, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.sweep import SweepEngine

N = 6


def worth() -> np.ndarray:
    """Of every set of N heads: they add up, two of them back each other up, and there is noise."""
    member = np.arange(2**N)[:, None] >> np.arange(N) & 1
    rng = np.random.default_rng(0)
    return member @ rng.normal(0.2, 0.2, N) - 0.3 * member[:, 0] * member[:, 1] + rng.normal(0, 0.05, 2**N)


def as_game(values: np.ndarray):
    """shapiq asks for coalitions as rows of bools."""
    return lambda coalitions: values[np.atleast_2d(coalitions).astype(int) @ (1 << np.arange(N))]


def test_shapley_values_and_interactions_are_those_of_shapiq():
    shapiq = pytest.importorskip("shapiq", reason="shapiq is in the extra peers")
    computer = shapiq.ExactComputer(as_game(worth()), n_players=N)
    values, interactions = computer("SV", 1), computer("SII", 2)
    np.testing.assert_allclose([values[(i,)] for i in range(N)], shapley(worth()), atol=1e-9)
    ours = shapley_interactions(worth())
    for i in range(N):
        for j in range(i + 1, N):
            assert interactions[i, j] == pytest.approx(ours[i, j], abs=1e-9)


@pytest.mark.parametrize("budget", [2 ** (N - 2), 2 ** (N - 1)])
def test_sampled_shapley_values_are_no_worse_than_those_of_shapiq(budget):
    """Mean errors over draws, from as many sets; with all of them KernelSHAP is exact."""
    shapiq = pytest.importorskip("shapiq", reason="shapiq is in the extra peers")
    truth, draws = shapley(worth()), 100
    whole = shapiq.KernelSHAP(n=N, random_state=0).approximate(2**N, as_game(worth()))
    np.testing.assert_allclose([whole[(i,)] for i in range(N)], truth, atol=1e-6)

    def error(estimate) -> float:
        values = np.array([estimate(seed) for seed in range(draws)])
        return float(np.sqrt(((values - truth) ** 2).mean(1)).mean())

    def theirs(approximator):
        def estimate(seed: int) -> list[float]:
            found = approximator(seed).approximate(budget, as_game(worth()))
            return [found[(i,)] for i in range(N)]

        return estimate

    value, orders = worth().__getitem__, (budget - 2) // (N - 1)
    kernel = error(lambda seed: kernel_shap(value, N, budget - 2, np.random.default_rng(seed)))
    permutations = error(lambda seed: permutation_shapley(value, N, orders, np.random.default_rng(seed)))
    assert kernel < 1.1 * error(theirs(lambda seed: shapiq.KernelSHAP(n=N, pairing_trick=True, random_state=seed)))
    assert permutations < 1.1 * error(theirs(lambda seed: shapiq.PermutationSamplingSV(n=N, random_state=seed)))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_attribution_patching_is_that_of_transformer_lens(direction, tmp_path):
    reason = "TransformerLens is in the extra peers"
    bridge = pytest.importorskip("transformer_lens.model_bridge", reason=reason).TransformerBridge
    peer = pytest.importorskip("transformer_lens.tools.analysis.attribution_patching", reason=reason)
    model = tiny_llama(17)
    for each in (model, word_tokenizer([f" w{i}" for i in range(15)])):
        each.save_pretrained(tmp_path)
    sides = np.random.default_rng(0).integers(17, size=(2, 4, 6)).tolist()
    pairs = [TokenPair(Prompt(tuple(a), (1,)), Prompt(tuple(b), (2,))) for a, b in zip(*sides, strict=True)]
    ours = attribution_patching(PairExperiment(SweepEngine(model, "reference"), pairs, direction), "recipient").change

    recipient, donor = (torch.tensor([getattr(pair, role).ids for pair in pairs]) for role in ROLES[direction])
    towards, away = (1, 2) if direction == "denoising" else (2, 1)
    theirs = peer.attribution_patch(
        bridge.boot_transformers(str(tmp_path), device="cpu"),
        donor,
        recipient,
        lambda logits: logits[0, -1, towards] - logits[0, -1, away],
    )
    by_head = np.zeros(8)
    for node, score in theirs.node_scores.items():  # of each position
        if node.kind == "attn_head_out":
            by_head[4 * node.layer + node.head] += score
    assert np.abs(by_head).min() > 0.01
    np.testing.assert_allclose(ours.mean(1), by_head, atol=1e-4)
