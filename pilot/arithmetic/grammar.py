"""The arithmetic expressions: how many there are, the i-th one, and their value.

A grouping is a way to put parentheses into a row of operands such that every pair encloses at least two
terms and none encloses the whole: `a.a.a`, `(a.a).a`, `a.(a.a)` for three operands. There are 1, 3, 11, 45, ...
of them for 2, 3, 4, 5, ... operands, the little Schroeder numbers (https://oeis.org/A001003).
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from pilot.errors import PilotError

KINDS = ("flat", "paren")
OPERATORS = "+-*"
MAX_CHARACTERS = 500  # evaluated at most: Python limits recursion, and the digits of an integer that it reads or prints

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Grammar:
    """Expressions over operands 0..max_operand and the given operators.

    Expressions of one kind and operand count are numbered 0..count-1, so a sample without repetition is a
    sample of numbers.
    """

    max_operand: int
    operators: str
    min_operands: int
    max_operands: int

    @property
    def operand_counts(self) -> range:
        return range(self.min_operands, self.max_operands + 1)

    def count(self, kind: str, n_operands: int) -> int:
        """How many distinct expressions of this kind have `n_operands` operands."""
        fillings: int = (self.max_operand + 1) ** n_operands * len(self.operators) ** (n_operands - 1)
        return len(groupings(kind, n_operands)) * fillings

    def expression(self, kind: str, n_operands: int, index: int) -> str:
        """The expression number `index`, 0 <= index < count(kind, n_operands)."""
        shapes = groupings(kind, n_operands)
        index, i = divmod(index, len(shapes))
        text = []
        for symbol in shapes[i]:
            if symbol == "a":
                index, operand = divmod(index, self.max_operand + 1)
                text.append(str(operand))
            elif symbol == ".":
                index, j = divmod(index, len(self.operators))
                text.append(self.operators[j])
            else:
                text.append(symbol)
        return "".join(text)

    def longest_line(self) -> int:
        """An upper bound on the characters of `expression=result`, to size a model's context."""
        n = self.max_operands
        digits = len(str(self.max_operand))
        widest_value = max(self.max_operand, 2) ** n  # no smaller for sums: (1+1)*(1+1) is 2**2
        deepest = max((shape.count("(") for kind in KINDS for shape in groupings(kind, n)), default=0)
        return n * digits + (n - 1) + 2 * deepest + len("=-") + len(str(widest_value))


@cache
def groupings(kind: str, n_operands: int) -> tuple[str, ...]:
    """Shapes of `n_operands` operands, `a` for an operand and `.` for an operator: `("(a.a).a", "a.(a.a)")`.

    The kind `flat` has the one shape without parentheses, `paren` all the others (none below three operands).
    """
    flat = ".".join("a" * n_operands)
    if kind == "flat":
        return (flat,)
    return tuple(shape for shape in _rows(n_operands) if shape != flat)


@cache
def _rows(n_operands: int) -> tuple[str, ...]:
    """Rows of at least two terms, a term being an operand or a row in parentheses."""
    return tuple(
        f"{first}.{rest}"
        for size in range(1, n_operands)
        for first in _terms(size)
        for rest in _terms(n_operands - size) + _rows(n_operands - size)
    )


def _terms(n_operands: int) -> tuple[str, ...]:
    return ("a",) if n_operands == 1 else tuple(f"({row})" for row in _rows(n_operands))


def kind_of(expression: str) -> str:
    """`paren` if the expression has parentheses, else `flat`."""
    return "paren" if "(" in expression else "flat"


def operand_count(expression: str) -> int:
    return len(_NUMBER.findall(expression))


Value = Callable[[Sequence[int]], int]  # of an expression, given its operands

_APPLY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def evaluate(expression: str) -> int:
    """The exact value, with Python's precedence.

    Raises PilotError for anything that is not non-negative integers joined by `+`, `-`, `*` and parentheses, and for
    more than MAX_CHARACTERS.
    """
    if len(expression) > MAX_CHARACTERS:
        raise PilotError(f"an expression of {len(expression)} characters is too long, want at most {MAX_CHARACTERS}")
    operands = [int(digits) for digits in _NUMBER.findall(expression)]
    return _compiled(_NUMBER.sub("0", expression))(operands)


@lru_cache(maxsize=4096)
def _compiled(shape: str) -> Value:
    """The value of expressions of this shape. Few shapes serve many expressions, so each is parsed once."""
    if re.search(r"[^0+*()-]", shape):
        raise PilotError(f"{shape!r} is not an arithmetic expression over + - * and parentheses")
    try:
        tree = ast.parse(shape, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        raise PilotError(f"{shape!r} is not a well-formed expression") from None
    next_operand = iter(range(len(shape)))

    def build(node: ast.expr) -> Value:
        if isinstance(node, ast.Constant):
            i = next(next_operand)
            return lambda operands: operands[i]
        if isinstance(node, ast.BinOp) and type(node.op) in _APPLY:
            apply, left, right = _APPLY[type(node.op)], build(node.left), build(node.right)
            return lambda operands: apply(left(operands), right(operands))
        raise PilotError(f"{shape!r} is not a chain of operands joined by + - *")

    return build(tree)
