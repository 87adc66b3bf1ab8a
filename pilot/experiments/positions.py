"""Where a head matters: recovery by head and position, over pairs that all have one form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pilot.experiments.effects import PairExperiment
from pilot.interventions import Intervention, single_heads, single_positions


@dataclass(frozen=True, eq=False)
class PositionMap:
    """Recovery of each head, patched at one position, as the ratio of means over the pairs.

    heads      n of them
    labels     (T,) what stands at each position of the prompts
    recovery   (n, T)
    pairs      how many there are of this form
    """

    heads: list[Intervention]
    labels: tuple[str, ...]
    recovery: np.ndarray
    pairs: int


def position_map(experiment: PairExperiment, labels: Sequence[tuple[str, ...]]) -> PositionMap:
    """Of the pairs that share the most common labels.

    labels   of each pair what stands at each position of its prompts; pairs of the same labels have one form
    """
    form, number = Counter(labels).most_common(1)[0]
    chosen = experiment.take(np.array([i for i, its in enumerate(labels) if its == form]))
    config = experiment.engine.model.config
    heads = single_heads(config)
    recovery = chosen.recovery(single_positions(config, len(form))).reshape(len(heads), -1)
    return PositionMap(heads, form, recovery, number)
