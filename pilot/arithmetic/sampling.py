"""Draws the expressions of every split and the counterfactual pairs, none of them twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from pilot.arithmetic.edits import EDITS, neighbours
from pilot.arithmetic.examples import Example
from pilot.arithmetic.grammar import Grammar, evaluate, kind_of, operand_count
from pilot.arithmetic.pairs import CounterfactualPair
from pilot.arithmetic.params import DataParams
from pilot.errors import PilotError
from pilot.inputs.pairs import SPLITS


def draw_pairs(params: DataParams) -> list[CounterfactualPair]:
    """Pairs of each edit, `params.pairs_per_edit` of them, no expression in two; the same for the same parameters.

    They are spread over the operand counts like the splits, and fewer where a grammar has too few expressions or few
    whose value the edit changes. An expression and one of its neighbours under the edit are drawn uniformly among
    those whose values differ, and a coin says which is clean, so both sides have one distribution. Every other pair
    is for `select`, the rest for `confirm`. Raises PilotError if the grammar gives no pair at all.
    """
    grammar, rng = params.grammar, random.Random(f"pairs {params.seed}")  # not the stream that draws the splits
    counts = {n: grammar.count("paren", n) for n in grammar.operand_counts}
    sizes = _spread(params.pairs_per_edit, {n: params.pairs_among(count) for n, count in counts.items()})
    pairs: list[CounterfactualPair] = []
    used: set[str] = set()
    for edit in EDITS:
        drawn: list[tuple[Example, Example]] = []
        for n, size in sizes.items():
            texts = (
                grammar.expression("paren", n, i) for i in rng.sample(range(counts[n]), params.tries_per_pair * size)
            )
            drawn += islice(_edited(texts, edit, grammar, used, rng), size)
        pairs += [
            CounterfactualPair(clean, corrupt, edit, SPLITS[i % len(SPLITS)])
            for i, (clean, corrupt) in enumerate(rng.sample(sides, 2) for sides in drawn)
        ]
    if not pairs:
        raise _too_few("paren", sum(counts.values()))
    return pairs


def _edited(
    texts: Iterable[str], edit: str, grammar: Grammar, used: set[str], rng: random.Random
) -> Iterator[tuple[Example, Example]]:
    """The texts, each with a random neighbour, whose values differ and neither of which is `used`; adds them to it."""
    for text in texts:
        candidates = neighbours(grammar, text, edit)
        if candidates:
            sides = text, rng.choice(candidates)
            first, second = map(_example, sides)
            if used.isdisjoint(sides) and first.result != second.result:
                used.update(sides)
                yield first, second


def draw_splits(params: DataParams) -> dict[str, list[Example]]:
    """Disjoint splits `train`, `val`, `test_flat` and `test_paren`, the same for the same parameters.

    Each is spread evenly over the operand counts as far as the grammar has enough expressions of each, and is
    smaller than asked for where it has not. None holds a side of one of the parameters' pairs (`draw_pairs`).
    Raises PilotError if a kind has too few expressions to give every split some.
    """
    grammar, rng = params.grammar, random.Random(params.seed)
    wanted = {"flat": round(params.train_size * params.flat_fraction)}
    wanted["paren"] = params.train_size - wanted["flat"]
    in_pairs = {side.expression for pair in draw_pairs(params) for side in (pair.clean, pair.corrupt)}
    taken = Counter((kind_of(text), operand_count(text)) for text in in_pairs)
    drawn: dict[tuple[str, str], list[str]] = {}
    for kind, train_wanted in wanted.items():
        counts = {n: grammar.count(kind, n) for n in grammar.operand_counts}
        held_out = {n: int(count * params.held_out_share / 2) for n, count in counts.items()}
        sizes = {"test": _spread(params.test_size, held_out), "val": _spread(params.val_size, held_out)}
        left = {n: count - sizes["test"][n] - sizes["val"][n] - taken[kind, n] for n, count in counts.items()}
        sizes["train"] = _spread(train_wanted, left)
        # One sample without repetition a stratum, cut into the splits: disjoint by construction. It is larger than
        # the splits by as many as the pairs may have of it.
        strata = {}
        for n, count in counts.items():
            numbers = rng.sample(range(count), sum(size[n] for size in sizes.values()) + taken[kind, n])
            expressions = (grammar.expression(kind, n, i) for i in numbers)
            strata[n] = [text for text in expressions if text not in in_pairs]
        for split, size in sizes.items():
            texts: list[str] = []
            for n, stratum in strata.items():
                texts += stratum[: size[n]]
                del stratum[: size[n]]
            if not texts and (split != "train" or train_wanted):
                raise _too_few(kind, sum(counts.values()))
            rng.shuffle(texts)
            drawn[kind, split] = texts
    splits = {
        "train": drawn["flat", "train"] + drawn["paren", "train"],
        "val": drawn["flat", "val"] + drawn["paren", "val"],
        "test_flat": drawn["flat", "test"],
        "test_paren": drawn["paren", "test"],
    }
    rng.shuffle(splits["train"])
    return {name: [_example(text) for text in texts] for name, texts in splits.items()}


def _example(text: str) -> Example:
    return Example(text, str(evaluate(text)))


def _too_few(kind: str, count: int) -> PilotError:
    return PilotError(
        f"data: the grammar has only {count} {kind} expressions, too few to fill train, val and test and to make "
        "counterfactual pairs; raise data.max_operand or data.max_operands, or add data.operators"
    )


def _spread(total: int, capacity: dict[int, int]) -> dict[int, int]:
    """`total` shared out evenly, nobody above its capacity; less in all where the capacities are smaller."""
    shares = {}
    for left, n in zip(range(len(capacity), 0, -1), sorted(capacity, key=lambda n: capacity[n]), strict=True):
        shares[n] = min(capacity[n], total // left)
        total -= shares[n]
    return shares
