"""Draws the expressions of every split, none of them twice."""

from __future__ import annotations

import random

from pilot.dataset import Example
from pilot.errors import PilotError
from pilot.expressions import evaluate
from pilot.params import DataParams

# At most this share of the expressions of one kind and operand count is held out, so that the few
# short ones (300 flat expressions of two one-digit operands) stay in the training set.
HELD_OUT_SHARE = 0.1


def draw_splits(params: DataParams) -> dict[str, list[Example]]:
    """Disjoint splits `train`, `val`, `test_flat` and `test_paren`, the same for the same parameters.

    Each is spread evenly over the operand counts as far as the grammar has enough expressions of each, and is
    smaller than asked for where it has not. Raises PilotError if a kind has too few to give every split some.
    """
    grammar, rng = params.grammar, random.Random(params.seed)
    wanted = {"flat": round(params.train_size * params.flat_fraction)}
    wanted["paren"] = params.train_size - wanted["flat"]
    drawn: dict[tuple[str, str], list[str]] = {}
    for kind, train_wanted in wanted.items():
        counts = {n: grammar.count(kind, n) for n in grammar.operand_counts}
        held_out = {n: int(count * HELD_OUT_SHARE / 2) for n, count in counts.items()}
        sizes = {"test": _spread(params.test_size, held_out), "val": _spread(params.val_size, held_out)}
        left = {n: count - sizes["test"][n] - sizes["val"][n] for n, count in counts.items()}
        sizes["train"] = _spread(train_wanted, left)
        # One sample without repetition a stratum, cut into the splits: disjoint by construction.
        strata = {n: rng.sample(range(count), sum(size[n] for size in sizes.values())) for n, count in counts.items()}
        for split, size in sizes.items():
            texts = []
            for n, numbers in strata.items():
                texts += [grammar.expression(kind, n, i) for i in numbers[: size[n]]]
                del numbers[: size[n]]
            if not texts and (split != "train" or train_wanted):
                raise PilotError(
                    f"data: the grammar has only {sum(counts.values())} {kind} expressions, too few to fill train, val "
                    "and test; raise data.max_operand or data.max_operands, or add data.operators"
                )
            rng.shuffle(texts)
            drawn[kind, split] = texts
    splits = {
        "train": drawn["flat", "train"] + drawn["paren", "train"],
        "val": drawn["flat", "val"] + drawn["paren", "val"],
        "test_flat": drawn["flat", "test"],
        "test_paren": drawn["paren", "test"],
    }
    rng.shuffle(splits["train"])
    return {name: [Example(text, str(evaluate(text))) for text in texts] for name, texts in splits.items()}


def _spread(total: int, capacity: dict[int, int]) -> dict[int, int]:
    """`total` shared out evenly, nobody above its capacity; less in all where the capacities are smaller."""
    shares = {}
    for left, n in zip(range(len(capacity), 0, -1), sorted(capacity, key=capacity.get), strict=True):
        shares[n] = min(capacity[n], total // left)
        total -= shares[n]
    return shares
