"""Arithmetic as experiments see it: prompts, answers and pairs as token ids."""

from __future__ import annotations

from collections.abc import Iterable

from pilot.arithmetic.examples import Example
from pilot.arithmetic.grammar import OPERATORS
from pilot.arithmetic.pairs import CounterfactualPair
from pilot.arithmetic.vocabulary import END, decode, encode
from pilot.inputs.pairs import TokenPair
from pilot.inputs.prompts import Prompt

_FORM = str.maketrans("0123456789" + OPERATORS, "n" * 10 + "∘" * len(OPERATORS))


def prompts_of(examples: Iterable[Example]) -> list[Prompt]:
    """Each expression up to its equals sign, and its result with the end marker."""
    return [Prompt(tuple(encode(f"{example.expression}=")), (*encode(example.result)[1:], END)) for example in examples]


def token_pairs(pairs: Iterable[CounterfactualPair]) -> list[TokenPair]:
    """The pairs as token ids, in order; any of one length may be each other's wrong donors."""
    return [
        TokenPair(clean, corrupt, pair.edit, pair.split)
        for pair in pairs
        for clean, corrupt in [prompts_of((pair.clean, pair.corrupt))]
    ]


def position_labels(pair: TokenPair) -> tuple[str, ...]:
    """What stands at each position of a pair's prompts: n an operand's digit, ∘ an operator, ^ the opening marker.

    Where the two sides differ it is both, such as "(/n".
    """
    sides = (decode(prompt.ids).translate(_FORM) for prompt in (pair.clean, pair.corrupt))
    return ("^", *(clean if clean == corrupt else f"{clean}/{corrupt}" for clean, corrupt in zip(*sides, strict=True)))
