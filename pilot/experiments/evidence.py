"""The rule by which heads earn their words, on measured changes of the logit difference (LD).

Each word needs a large effect and, where something else could explain it, a control that does less:

    sufficient   recovery in denoising above `min_effect`; and the head does more than from a wrong donor, since damage
                 from any donor moves the LD towards zero
    necessary    recovery in noising above `min_effect`; and the head does more than the other heads do on average
    redundant    with another head: their Shapley interaction is below minus `min_interaction` in denoising, where one
                 of them is enough, and above `min_interaction` in noising, where it takes both to lose the answer. Two
                 heads in series, of which either restores the answer and either breaks it, are negative in both

All conditions of a word must hold, so its p-value is the largest of theirs (an intersection-union test: Berger 1982,
"Multiparameter hypothesis testing and acceptance sampling"). The p-values of a word are then corrected by Holm's method
for all heads, or all pairs of heads: the chance that any head gets it wrongly is at most `level`.

Shapes: n heads or other targets, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pilot.errors import PilotError
from pilot.experiments.donors import TokenDonor
from pilot.experiments.effects import PairExperiment
from pilot.experiments.statistics import adjusted, bootstrap_test, sign_tests
from pilot.experiments.subsets import SubsetEffects
from pilot.interventions import Intervention


@dataclass(frozen=True, eq=False)
class Evidence:
    """How n targets change the LD of P pairs in one direction, and how much their control does.

    change    (n, P)
    control   (n, P), NaN for a pair that has no control
    gap       (P,), LD donor - LD recipient
    """

    change: np.ndarray
    control: np.ndarray
    gap: np.ndarray

    def take(self, index: np.ndarray) -> Evidence:
        """Of the pairs of these numbers, which may repeat."""
        return Evidence(self.change[:, index], self.control[:, index], self.gap[index])

    def pvalues(self, min_effect: float, resamples: int, rng: np.random.Generator) -> np.ndarray:
        """Of each target's being sufficient, in denoising, or necessary, in noising; not corrected: (n,)."""
        large = bootstrap_test(self.change, self.gap, min_effect, resamples, rng)
        return np.asarray(np.maximum(large, sign_tests(self.change, self.control, alternative="greater")))


def measure_evidence(experiment: PairExperiment, heads: Sequence[Intervention]) -> Evidence:
    """Of every head alone; the heads are each other's control in noising."""
    change = experiment.changes(heads)
    if experiment.direction == "denoising":
        return Evidence(change, wrong_donor_changes(experiment, heads), experiment.gap)
    return Evidence(change, (change.sum(0) - change) / (len(heads) - 1), experiment.gap)


def wrong_donor_changes(
    experiment: PairExperiment, interventions: Sequence[Intervention], pairs: Sequence[int] | None = None
) -> np.ndarray:
    """What the interventions do with a wrong donor, NaN for pairs that have none: (n, P).

    pairs   only those of these numbers, P of them; their donors may be of other pairs
    """
    index, donor = experiment.wrong_donor()
    donors = dict(zip(index.tolist(), donor.tokens, strict=True))
    chosen = range(len(experiment)) if pairs is None else pairs
    changes = np.full((len(interventions), len(chosen)), np.nan)
    places = [place for place, pair in enumerate(chosen) if pair in donors]
    if places:
        controlled = [chosen[place] for place in places]
        others = TokenDonor([donors[pair] for pair in controlled])
        changes[:, places] = experiment.take(np.array(controlled)).changes(interventions, others)
    return changes


def redundancy_pvalues(
    denoising: SubsetEffects,
    noising: SubsetEffects,
    min_interaction: float,
    level: float,
    resamples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Of each two heads' being redundant, corrected for all pairs of heads: (n, n), symmetric, 1 on the diagonal.

    Both are of the same heads and pairs of prompts. Raises PilotError for too few resamples to tell at this `level`.
    """
    n = len(denoising.heads)
    upper = np.triu_indices(n, k=1)
    check_resamples(resamples, len(upper[0]), level)
    pvalues = [
        bootstrap_test(sign * effects.pair_interactions[upper], effects.gap, min_interaction, resamples, rng)
        for sign, effects in ((-1, denoising), (1, noising))
    ]
    result = np.ones((n, n))
    result[upper] = adjusted(np.maximum(*pvalues), "holm")
    return np.minimum(result, result.T)


def check_resamples(resamples: int, tests: int, level: float) -> None:
    """Raises PilotError if the smallest p-value of a bootstrap test is not below `level` once corrected for so many."""
    if 2 * tests >= level * (resamples + 1):
        raise PilotError(
            f"{resamples} resamples are too few to correct {tests} tests at {level:g}: no head could earn a word; take "
            f"more than {int(2 * tests / level)}"
        )
