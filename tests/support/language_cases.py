"""Made-up results of a language model, as the stages write them, for the tests of its page.

Heads play an additive game with one exception: the first two players need each other and interact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from pilot.experiments.attribution.results import COLUMNS as ATTRIBUTION_COLUMNS
from pilot.runtime.files import write_csv, write_json, write_text
from support.report_cases import attributed_heads, attribution

DIRECTIONS = ("denoising", "noising")
COLUMNS = {
    "head_positions": ("direction", "head", "position", "symbol", "value", "pairs"),
    "interactions": ("direction", "head_a", "head_b", "value", "low", "high", "p_holm"),
    "best_sets": ("direction", "size", "set", "heads", "value", "low", "high", "optimism"),
    "attribution": ATTRIBUTION_COLUMNS,
}
TOKENS = [
    "When", " [Mary]", " and", " [John]", " went", " to", " the", " store", ",",
    " [John]", " gave", " a", " drink", " to",
]  # fmt: skip
CLEAN = [token.replace("[", "").replace("]", "") for token in TOKENS]


def write_language_metrics(
    folder: Path, n_layers: int = 3, n_heads: int = 3, n_players: int = 3, null: bool = False, edit: str = "name"
) -> None:
    """All files of one task: the last heads of the last layers are the players. With `null` no head does anything."""
    heads = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
    players = [heads[-1 - 2 * i] for i in range(n_players)]
    single = {name: 0.001 * (i % 7 - 3) for i, name in enumerate(heads)}
    single |= {name: 0.0 if null else 0.4 * 0.7**i * (-1 if i == 2 else 1) for i, name in enumerate(players)}
    together = 0.0 if null else 0.1  # what the first two players add to each other
    for name, content in {
        "pairs": _pairs(),
        "selection": _selection(single, players),
        "counterfactual": _counterfactual(single, players, together, edit),
        "attribution": attribution([edit]),
    }.items():
        write_json(folder / f"{name}.json", content)
    for name, rows in {
        "head_positions": _head_positions(single),
        "interactions": _interactions(players, together),
        "best_sets": _best_sets(single, players, together),
        "attribution": attributed_heads([edit], single),
    }.items():
        write_csv(folder / f"{name}.csv", COLUMNS[name], rows)


def write_examples(path: Path, players: Sequence[str]) -> None:
    n = len(CLEAN)
    attention = {
        name: [[0.1 / (i + 1) + 0.9 * (j == (i + 3 * number) % (i + 1)) for j in range(i + 1)] for i in range(n)]
        for number, name in enumerate(players)
    }
    pair, many = "+".join(players[:2]), "+".join([*players, "L0H0"])
    sets = ((players[0], -0.4, 0.42, " John"), (pair, 2.9, 0.83, " Mary"), (many, 3.1, 0.9, " Mary"))
    patched = [
        {
            "heads": heads,
            "direction": direction,
            "ld": ld - 0.1 * (direction == "noising"),
            "recovery": recovery,
            "answer": answer,
        }
        for direction in DIRECTIONS
        for heads, ld, recovery, answer in sets
    ]
    example = {
        "edit": "name",
        "clean": CLEAN,
        "corrupt": [*CLEAN[:9], " Mary", *CLEAN[10:]],
        "clean_answer": " Mary",
        "corrupt_answer": " John",
        "patched": patched,
        "attention": attention,
    }
    write_text(path, json.dumps([example, example | {"clean": ["<b>", *CLEAN[1:]]}]))


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.04, "high": value + 0.04}


def _pairs() -> dict:
    split = {"drawn": 100, "both_right": 92, "usable": 90}
    return {
        "drawn": 212,
        "left_out": {"unequal_lengths": 11, "answers_do_not_part": 1},
        "select": split,
        "confirm": split | {"both_right": 90, "usable": 88},
        "accuracy": {"clean": 0.96, "corrupt": 0.94},
    }


def _selection(single: Mapping[str, float], players: Sequence[str]) -> dict:
    recovery = {name: estimate(value) for name, value in single.items()}
    return {
        "recovery": dict.fromkeys(DIRECTIONS, recovery),
        "player": {name: rank for rank, name in enumerate(players, start=1)},
    }


def _counterfactual(single: Mapping[str, float], players: Sequence[str], together: float, edit: str) -> dict:
    total = sum(single[name] for name in players) + together

    def row(value: float) -> dict:
        rates = {"recovery": estimate(value), "flip_rate": estimate(value / 2), "wrong_donor": estimate(0.0)}
        tests = {"p": 0.5, "p_holm": 1.0 if value < 0.1 else 0.002, "p_bh": 0.5}
        return rates | {"mean_of_ratios": value, "exact_match": 1 - value, "kl": 0.5} | tests

    effects = {name: row(value) for name, value in single.items()}
    effects |= {"top_k": row(total), "random_k": row(0.02), "all_heads": row(1.0)}
    del effects["random_k"]["wrong_donor"]
    shares = {name: single[name] + together / 2 * (name in players[:2]) for name in players}
    return {
        "fused": 1,
        "pairs": {edit: {"confirm": {"drawn": 100, "both_right": 90, "usable": 88}}},
        "effects": {edit: dict.fromkeys(DIRECTIONS, effects)},
        "verdict": {
            name: {
                "sufficient": int(value > 0.1),
                "necessary": int(value > 0.35),
                "redundant": 0,
            }
            for name, value in single.items()
        },
        "stability": {key: {name: 1.0 - 0.04 * i for i, name in enumerate(players)} for key in DIRECTIONS},
        "shapley": {key: {name: estimate(value) for name, value in shares.items()} for key in DIRECTIONS},
    }


def _head_positions(single: Mapping[str, float]) -> list[dict]:
    peaks = {name: (9, 13, 3)[i % 3] for i, name in enumerate(single)}
    return [
        {
            "direction": direction,
            "head": name,
            "position": t,
            "symbol": token,
            "value": value * (t == peaks[name]),
            "pairs": 44,
        }
        for direction in DIRECTIONS
        for name, value in single.items()
        for t, token in enumerate(TOKENS)
    ]


def _interactions(players: Sequence[str], together: float) -> list[dict]:
    return [
        {
            "direction": direction,
            "head_a": a,
            "head_b": b,
            **estimate(together if (a, b) == tuple(players[:2]) else 0.0),
            "p_holm": 1.0,
        }
        for direction in DIRECTIONS
        for a, b in combinations(players, 2)
    ]


def _best_sets(single: Mapping[str, float], players: Sequence[str], together: float) -> list[dict]:
    def worth(heads: Sequence[str]) -> float:
        return sum(single[name] for name in heads) + together * (set(players[:2]) <= set(heads))

    rows = []
    for direction in DIRECTIONS:
        for size in range(len(players) + 1):
            base = {"direction": direction, "size": size}
            best = max(combinations(players, size), key=worth)
            top = players[:size]
            rows += [
                base | {"set": "best", "heads": "+".join(best), **estimate(worth(best)), "optimism": 0.01},
                base | {"set": "single", "heads": "+".join(top), **estimate(worth(top))},
                base | {"set": "average", "value": size / len(players) * worth(players)},
                base | {"set": "sum", "heads": "+".join(top), **estimate(worth(top) - 0.01)},
            ]
    return rows
