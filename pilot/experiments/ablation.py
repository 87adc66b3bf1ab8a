"""What a head is worth: accuracy with its output replaced by zeros, by its mean, or by another example's.

An ablation is a patch whose donor is made up: see pilot.experiments.donors.

Shapes: n interventions, N prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from tqdm import tqdm

from pilot.experiments.donors import Donor
from pilot.experiments.statistics import bootstrap_difference, bootstrap_mean
from pilot.inputs.prompts import Prompt, batches_by_length, gives_answer
from pilot.interventions import Intervention
from pilot.sweep import SweepEngine

METHODS = ("zero", "mean", "resample")


def ablated_correct(
    engine: SweepEngine,
    prompts: Sequence[Prompt],
    interventions: Sequence[Intervention],
    donor: Donor,
    progress: str | None = None,
) -> np.ndarray:
    """Whether each prompt's whole answer is given under every intervention: (n, N) bool.

    progress   what to call the work in a progress bar; None: no bar
    """
    correct = np.zeros((len(interventions), len(prompts)), dtype=bool)
    for batch in tqdm(batches_by_length(prompts), desc=progress, unit="length", disable=None if progress else True):
        read = batch.answer_positions
        targets, answer = batch.answers_at(read)
        for i, predicted in enumerate(engine.predict(batch.inputs, donor(batch), interventions, read)):
            correct[i, batch.index] = gives_answer(predicted, targets, answer)
    return correct


def impact_estimates(losses: Mapping[str, np.ndarray], resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Mean loss of one head on "flat" and "paren" examples, and the difference of the two, with intervals."""
    # The same seed for every head: equal losses then get equal intervals.
    rng = np.random.default_rng(seed)
    means = {kind: bootstrap_mean(losses[kind], resamples, rng) for kind in losses}
    difference = bootstrap_difference(losses["paren"], losses["flat"], resamples, rng)
    return {name: asdict(estimate) for name, estimate in (means | {"paren_minus_flat": difference}).items()}
