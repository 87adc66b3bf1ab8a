"""The edits that make a counterfactual of a parenthesised expression, and which of them lies between two.

regroup    the same operands and operators, as many parentheses in other places: `8-(3-2)`, `(8-3)-2`
operator   one operator replaced: `8-(3-2)`, `8-(3+2)`
operand    one operand replaced by another with as many digits: `8-(3-2)`, `8-(3-5)`

Every edit keeps the length of the text, so that the positions of two runs align, and another one of its kind undoes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pilot.arithmetic.grammar import OPERATORS, Grammar, groupings, kind_of, operand_count

EDITS = ("regroup", "operator", "operand")
MAIN_EDIT = "regroup"  # it moves nothing but parentheses

_SYMBOL = re.compile(r"\d+|.")


def neighbours(grammar: Grammar, expression: str, edit: str) -> list[str]:
    """All expressions of `grammar` that are one `edit` away from a parenthesised one of it, each once.

    Those of the same value are among them.
    """
    symbols = _SYMBOL.findall(expression)
    if edit == "regroup":
        shapes = groupings("paren", operand_count(expression))
        texts = [_fill(shape, _terms(symbols)) for shape in shapes if shape.count("(") == expression.count("(")]
    else:
        texts = [
            "".join((*symbols[:i], other, *symbols[i + 1 :]))
            for i, symbol in enumerate(symbols)
            for other in _replacements(grammar, symbol, edit)
        ]
    return [text for text in texts if text != expression]


def edit_between(first: str, second: str) -> str | None:
    """The edit that turns one parenthesised expression into the other; None if no single one does, or one is flat."""
    if "flat" in (kind_of(first), kind_of(second)) or len(first) != len(second) or first == second:
        return None
    before, after = _SYMBOL.findall(first), _SYMBOL.findall(second)
    if _terms(before) == _terms(after):
        return "regroup"
    changes = [{old, new} for old, new in zip(before, after, strict=False) if old != new]
    if len(before) != len(after) or len(changes) != 1:
        return None
    if changes[0] <= set(OPERATORS):
        return "operator"
    return "operand" if all(symbol.isdigit() for symbol in changes[0]) else None


def _terms(symbols: Sequence[str]) -> list[str]:
    """Operands and operators in their order, without the parentheses."""
    return [symbol for symbol in symbols if symbol not in "()"]


def _fill(shape: str, terms: Sequence[str]) -> str:
    """A shape of `pilot.arithmetic.grammar.groupings` with its operands and operators put in."""
    remaining = iter(terms)
    return "".join(symbol if symbol in "()" else next(remaining) for symbol in shape)


def _replacements(grammar: Grammar, symbol: str, edit: str) -> Sequence[str]:
    """What may stand in the place of `symbol` by an `operator` or `operand` edit, itself included."""
    if edit == "operator" and symbol in OPERATORS:
        return grammar.operators
    if edit == "operand" and symbol.isdigit():
        digits = len(symbol)
        smallest = 10 ** (digits - 1) if digits > 1 else 0
        return [str(operand) for operand in range(smallest, min(10**digits - 1, grammar.max_operand) + 1)]
    return ()
