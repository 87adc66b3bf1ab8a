"""How well patching finds planted heads: AUROC of their importance, and false positives where no head matters.

A head's importance is its mean recovery over pairs, after one of three methods:

    denoising   clean z of this head alone into the corrupt run
    noising     corrupt z of this head alone into the clean run
    shapley     clean z of every set of heads into the corrupt run; the head's Shapley value in that game

Denoising alone cannot see a head that needs another one (AND), noising alone not one that has a backup (OR), after
Heimersheim & Nanda 2024 (arXiv:2404.15255). Denoising and noising are also done at one position at a time.

Shapes: n interventions, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from pilot.experiments.planted.circuits import (
    CLEAN_ANSWER,
    CORRUPT_ANSWER,
    SEQ_LEN,
    Circuit,
    TokenPairs,
    draw_pairs,
    plant,
    random_circuit,
)
from pilot.experiments.shapley import shapley
from pilot.experiments.statistics import Estimate, adjusted, clustered_rate, sign_test
from pilot.interventions import Intervention, at_positions, head_subsets, single_heads, single_positions
from pilot.models.transformer import PilotTransformer
from pilot.sweep import sweep

METHODS = ("denoising", "noising", "shapley", "denoising_by_position", "noising_by_position")
SIZES = ((2, 2), (2, 3), (2, 4), (3, 2), (4, 2))  # layers and heads, few enough for all subsets of heads


@dataclass(frozen=True)
class Score:
    """How one method ranks the planted heads of one circuit, or these heads at their positions.

    auroc     the chance that a planted one is more important than another one; 1: all of them are, 0.5: blind
    planted   the planted ones' mean importance
    others    the largest importance, positive or negative, of any other
    """

    auroc: float
    planted: float
    others: float


def score(circuit: Circuit, rng: np.random.Generator, n_pairs: int = 8) -> dict[str, Score]:
    """Plant a circuit and look for its heads by each of METHODS; runs 2**n sets of its model's n heads.

    Raises ValueError for a circuit of no heads or of all.
    """
    model, pairs = plant(circuit, rng), draw_pairs(circuit, n_pairs, rng)
    heads = single_heads(model.config)
    cells = single_positions(model.config, SEQ_LEN)
    sets = head_subsets(tuple(head for (head,) in heads))
    denoising, noising = recovery(model, pairs, [*heads, *cells, *sets]).mean(2)
    head, cell, game = np.split(np.arange(len(denoising)), [len(heads), len(heads) + len(cells)])
    anywhere = at_positions(circuit.heads, 0, None)
    is_head = np.array([patch in anywhere for (patch,) in heads])
    is_cell = np.array([patch in circuit.heads for (patch,) in cells])
    return {
        "denoising": _score(denoising[head], is_head),
        "noising": _score(noising[head], is_head),
        "shapley": _score(shapley(denoising[game]), is_head),
        "denoising_by_position": _score(denoising[cell], is_cell),
        "noising_by_position": _score(noising[cell], is_cell),
    }


def recovery(model: PilotTransformer, pairs: TokenPairs, interventions: Sequence[Intervention]) -> np.ndarray:
    """(LD patched - LD recipient) / (LD donor - LD recipient), by denoising and by noising: (2, n, P)."""
    recipient, donor = torch.cat([pairs.corrupt, pairs.clean]), torch.cat([pairs.clean, pairs.corrupt])
    read = pairs.read.repeat(2, 1)
    ld = sweep(model, recipient, donor, [(), *interventions], read=read, measure=_logit_difference)
    ld = ld.view(-1, 2, len(pairs.read)).double().transpose(0, 1).numpy()
    own = ld[:, :1]
    return (ld[:, 1:] - own) / (own[::-1] - own)


def _logit_difference(logits: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    return logits[:, :, CLEAN_ANSWER] - logits[:, :, CORRUPT_ANSWER]


def _score(importance: np.ndarray, planted: np.ndarray) -> Score:
    return Score(
        auroc(importance, planted), float(importance[planted].mean()), float(np.abs(importance[~planted]).max())
    )


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive has a larger score than a negative; ties count half.

    scores (N,), positive (N,) bool. That is the Mann-Whitney U statistic over the number of such pairs (Hanley &
    McNeil 1982, "The meaning and use of the area under a ROC curve"). Raises ValueError without positives or negatives.
    """
    above, below = scores[positive], scores[~positive]
    if not len(above) or not len(below):
        raise ValueError("an AUROC needs a positive and a negative")
    return float(stats.mannwhitneyu(above, below).statistic / (len(above) * len(below)))


def head_pvalues(model: PilotTransformer, pairs: TokenPairs) -> np.ndarray:
    """The sign test of each head's denoising effects against zero: (n_heads,), uncorrected."""
    effects, _ = recovery(model, pairs, single_heads(model.config))
    return np.array([sign_test(effect, np.zeros_like(effect)) for effect in effects])


def false_positives(
    simulations: int, rng: np.random.Generator, n_pairs: int = 50, level: float = 0.05
) -> dict[str, Estimate]:
    """How often the test at this level finds a head in a random circuit where none matters.

    Clean and corrupt runs differ in their answers, which no head carries, and at random in what the heads do carry:
    a head's effect is then as often positive as negative.

    any_head    share of circuits with a rejection after Holm's correction; at most `level` if all is well
    each_head   share of rejected heads without correction; likewise
    """
    simulated = []
    for _ in range(simulations):
        circuit = random_circuit("none", *SIZES[rng.integers(len(SIZES))], rng)
        simulated.append(head_pvalues(plant(circuit, rng), draw_pairs(circuit, n_pairs, rng)))
    any_head = np.array([(adjusted(pvalues, "holm") <= level).any() for pvalues in simulated])
    number = np.repeat(np.arange(simulations), [len(pvalues) for pvalues in simulated])
    return {
        "any_head": clustered_rate(any_head, np.arange(simulations)),
        "each_head": clustered_rate(np.concatenate(simulated) <= level, number),
    }
