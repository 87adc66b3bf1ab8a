"""Where a head matters: recovery by head and position, over pairs that all have one form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pilot.arithmetic.grammar import OPERATORS
from pilot.arithmetic.pairs import CounterfactualPair
from pilot.experiments.effects import logit_difference_changes
from pilot.interventions import Intervention, single_heads, single_positions
from pilot.models.transformer import PilotTransformer

_FORM = str.maketrans("0123456789" + OPERATORS, "n" * 10 + "∘" * len(OPERATORS))


@dataclass(frozen=True)
class PositionMap:
    """Recovery of each head, patched at one position, as the ratio of means over the pairs.

    heads      n of them
    symbols    (T,) what stands at each position up to the equals sign: n an operand's digit, ∘ an operator, ^ the
               opening marker; both, such as "(/n", where the two sides differ
    recovery   (n, T)
    pairs      how many there are of this form
    """

    heads: list[Intervention]
    symbols: list[str]
    recovery: np.ndarray
    pairs: int


def position_map(
    model: PilotTransformer, pairs: Sequence[CounterfactualPair], direction: str, impl: str = "auto"
) -> PositionMap:
    """Of the pairs whose two sides have the most common forms, parentheses at the same places in all of them."""
    forms = [(form(pair.clean.expression), form(pair.corrupt.expression)) for pair in pairs]
    (clean, corrupt), _ = Counter(forms).most_common(1)[0]
    chosen = [pair for pair, its in zip(pairs, forms, strict=True) if its == (clean, corrupt)]
    symbols = ["^", *(a if a == b else f"{a}/{b}" for a, b in zip(clean, corrupt, strict=True)), "="]
    interventions = single_positions(model.config, len(symbols))
    change, gap = logit_difference_changes(model, chosen, direction, interventions, impl)
    heads = single_heads(model.config)
    recovery = change.sum(1, dtype=np.float64).reshape(len(heads), -1) / gap.sum()
    return PositionMap(heads, symbols, recovery, len(chosen))


def form(expression: str) -> str:
    """The expression with n for each digit and ∘ for each operator: `(n∘n)∘n`."""
    return expression.translate(_FORM)
