"""Made-up results that agree with each other, as the stages write them, for the tests of the report.

Sets of heads play an additive game: a set recovers what its heads recover, which is also their Shapley value, and no
two heads interact.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from pilot.runtime.files import write_json, write_text

SYMBOLS = ("^", "(", "n", "∘", "(/n", ")", "∘", "n", "=")


def write_metrics(folder: Path, n_layers: int = 2, n_heads: int = 2) -> None:
    """All files of metrics/ for a model of so many heads, L0H1 and the last head the selected ones."""
    heads = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
    selected = [heads[1], heads[-1]]
    shares = {name: (5.0 if name in selected else 1 - 0.1 * i) for i, name in enumerate(heads)}
    recovery = {name: share / sum(shares.values()) for name, share in shares.items()}
    for name, content in {
        "train": _train(),
        "ablation": _ablation(recovery),
        "selection": _selection(recovery, selected),
        "patching": _patching(heads),
        "counterfactual": _counterfactual(recovery, selected),
        "attribution": attribution(EDITS) | {"planted": _blindness()},
        "planted": _planted(),
        "seeds": {f"seed {n}": _seed(n) for n in range(3)},
    }.items():
        write_json(folder / f"{name}.json", content)
    for name, rows in {
        "training": [{"epoch": n, "loss": 2 / n, "val_flat": n / 10, "val_paren": n / 11} for n in range(1, 11)],
        "interactions": _interactions(heads),
        "best_sets": _best_sets(recovery),
        "head_positions": _head_positions(recovery),
        "attribution": attributed_heads(EDITS, recovery),
        "trajectory": _trajectory(recovery),
        "planted_power": _power(),
    }.items():
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / f"{name}.csv", text.getvalue())


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def _train() -> dict:
    accuracy = {"exact_match": 0.91, "last_digit": 0.95, "final_token": 0.999}
    return {"test": {"flat": accuracy | {"exact_match": 0.97}, "paren": accuracy}, "best_epoch": 10, "seconds": 60.0}


def _ablation(recovery: dict[str, float]) -> dict:
    impact = {
        name: {"flat": estimate(value / 2), "paren": estimate(value), "paren_minus_flat": estimate(value / 2)}
        for name, value in recovery.items()
    }
    baseline = {"flat": 0.97, "paren": 0.9}
    return {"fused": 1, "baseline": baseline, "impact": {method: impact for method in ("zero", "mean", "resample")}}


def _selection(recovery: dict[str, float], selected: list[str]) -> dict:
    ranked = sorted(recovery, key=lambda name: -recovery[name])
    return {
        "n_selected": len(selected),
        "n_selected_meeting_threshold": 1,
        "heads": {
            name: {
                "rank": rank,
                "impact": recovery[name],
                "confirm_impact": recovery[name] - 0.01,
                "selected": int(name in selected),
                "meets_threshold": int(rank == 1),
            }
            for rank, name in enumerate(ranked, start=1)
        },
    }


def _patching(heads: list[str]) -> dict:
    rates = {"fixed": estimate(0.1), "adopted": estimate(0.06), "pairs": 40}
    sets = (*heads, "top_k", "bottom_k", "top_k@0:6", "all_heads")
    return {
        "fused": 1,
        "examples": 100,
        "accuracy": 0.9,
        "wrong_answers": 10,
        "pairs": {"right_to_wrong": 40, "wrong_to_wrong": 40},
        "repair": {name: {"right_to_wrong": rates, "wrong_to_wrong": rates} for name in sets},
    }


def _counterfactual(recovery: dict[str, float], selected: list[str]) -> dict:
    top = sum(recovery[name] for name in selected)
    sets = {"top_k": top, "bottom_k": 0.05, "random_k": 0.1, "all_heads": 1.0}

    def both(value):
        return {"denoising": value, "noising": value}

    def row(value: float, tested: bool) -> dict:
        tests = {"p": 0.001, "p_holm": 0.01, "p_bh": 0.002} if tested else {}
        rates = {"recovery": estimate(value), "flip_rate": estimate(value / 2), "wrong_donor": estimate(0.0)}
        return rates | {"mean_of_ratios": value, "exact_match": 1 - value, "kl": 0.5} | tests

    effects = {name: row(value, tested=True) for name, value in recovery.items()}
    effects |= {name: row(value, tested=name == "top_k") for name, value in sets.items()}
    del effects["random_k"]["wrong_donor"]
    split = {"drawn": 500, "both_right": 441, "usable": 430}
    return {
        "fused": 1,
        "pairs": {
            edit: {"select": split, "confirm": split, "with_wrong_donor": both(425)}
            for edit in ("regroup", "operator", "operand")
        },
        "effects": {edit: both(effects) for edit in ("regroup", "operator", "operand")},
        "shapley": both({name: estimate(value) for name, value in recovery.items()}),
        "verdict": {
            name: {"sufficient": int(name in selected), "necessary": int(name == selected[0]), "redundant": 0}
            for name in recovery
        },
        "stability": both({name: float(name in selected) for name in recovery}),
    }


def _interactions(heads: list[str]) -> list[dict]:
    return [
        {"direction": direction, "head_a": a, "head_b": b, "value": 0.0, "low": -0.01, "high": 0.01, "p_holm": 1.0}
        for direction in ("denoising", "noising")
        for a, b in combinations(heads, 2)
    ]


def _best_sets(recovery: dict[str, float]) -> list[dict]:
    ranked = sorted(recovery, key=lambda name: -recovery[name])
    rows = []
    for direction in ("denoising", "noising"):
        for size in range(len(ranked) + 1):
            heads, value = ranked[:size], sum(recovery[name] for name in ranked[:size])
            base = {"direction": direction, "size": size}
            best = {"heads": "+".join(heads), **estimate(value)}
            rows.append(base | {"set": "best"} | best | {"optimism": 0.02})
            rows.append(base | {"set": "ablation"} | best | {"optimism": ""})
            average = {"heads": "", "value": size / len(ranked), "low": "", "high": "", "optimism": ""}
            rows.append(base | {"set": "average"} | average)
    return rows


def _head_positions(recovery: dict[str, float]) -> list[dict]:
    return [
        {"direction": direction, "head": name, "position": t, "symbol": symbol, "value": value * (t == 5), "pairs": 120}
        for direction in ("denoising", "noising")
        for name, value in recovery.items()
        for t, symbol in enumerate(SYMBOLS)
    ]


def _trajectory(recovery: dict[str, float]) -> list[dict]:
    epochs = (1, 2, 3, 5, 10)
    accuracy = [
        {"epoch": epoch, "head": "", "measure": measure, "value": epoch / 10}
        for epoch in epochs
        for measure in ("val_flat", "val_paren")
    ]
    return accuracy + [
        {"epoch": epoch, "head": name, "measure": measure, "value": value * epoch / 10}
        for epoch in epochs
        for measure in ("ablation_paren", "denoising", "noising")
        for name, value in recovery.items()
    ]


EDITS = ("regroup", "operator")
METHODS = {"atp_recipient": 3.0, "ig_inputs_1": 4.0, "ig_inputs_5": 12.0, "zero_ablation": 17.0, "exact": 18.0}


def attribution(edits: Sequence[str]) -> dict:
    """What both pipelines write as attribution.json: the error of a method is 1 / its cost."""

    def scores(name: str, cost: float) -> dict:
        error = 0.0 if name == "exact" else 1 / cost
        others = ("worst", "pearson", "spearman", "recall", "sign_errors")
        return {"cost": cost, "error": estimate(error)} | {measure: estimate(0.5) for measure in others}

    heads = {name: scores(name, cost) for name, cost in METHODS.items()}
    chosen = {
        name: {"mean": estimate(0.1), "worst": estimate(0.2)} for name in (*METHODS, "shapley", "greedy", "exhaustive")
    }
    predicted = {name: {"error": estimate(0.3), "worst": estimate(0.4)} for name in (*METHODS, "shapley")}
    budgets = {"16": {"sets": 17, "error": 0.2}, "64": {"sets": 65, "error": 0.1}}
    sets = {
        "predicted": predicted,
        "chosen": chosen,
        "shapley": {"permutations": budgets, "kernel_shap": budgets},
    }

    directions = ("denoising", "noising")
    return {
        "top_k": 2,
        "pairs": dict.fromkeys(edits, 128),
        "heads": {edit: dict.fromkeys(directions, heads) for edit in edits},
        "sets": dict.fromkeys(directions, sets),
    }


def _blindness() -> dict:
    """An AND's heads are seen by exact patching alone."""

    def sight(effective: int, seen: int) -> dict:
        return {
            name: {
                "effective": effective,
                "seen": effective if name == "exact" else seen,
                "false": 0 if effective or name == "exact" else 2,
            }
            for name in METHODS
        }

    return {
        "single": {"denoising": sight(10, 10), "noising": sight(10, 10)},
        "and": {"denoising": sight(0, 0), "noising": sight(20, 0)},
    }


def attributed_heads(edits: Sequence[str], recovery: Mapping[str, float]) -> list[dict]:
    """Rows of attribution.csv: approximations give the first head 0.3 too little, and are right about the others."""
    rows = []
    for edit in edits:
        for direction in ("denoising", "noising"):
            for method, cost in METHODS.items():
                for i, (head, value) in enumerate(recovery.items()):
                    error = -0.3 if i == 0 and method != "exact" else 0.0
                    key = {"edit": edit, "direction": direction, "method": method, "cost": cost, "head": head}
                    rows.append(key | {"value": value + error, "error": error})
    return rows


def _planted() -> dict:
    """Heads of an AND are necessary only. Here and there a head is missed or named falsely."""

    def counts(earned: int, missed: int = 0, false: int = 0) -> dict[str, float]:
        return {"earned": earned, "right": earned - missed, "missed": missed, "false": false, "exact": 0.9}

    single = {
        "sufficient": counts(50),
        "necessary": counts(50, missed=2),
        "redundant": counts(0),
        "position": counts(50),
    }
    both = {"sufficient": counts(0, false=1), "necessary": counts(100), "redundant": counts(0), "position": counts(0)}
    words = ("sufficient", "necessary", "redundant")
    return {
        "placements": 50,
        "nulls": 400,
        "simulations": 400,
        "circuits": {kind: {"30": words, "430": words} for kind, words in {"single": single, "and": both}.items()},
        "false_positives": {
            "shared": {"30": dict.fromkeys(words, estimate(0.05))},
            "damage": {"30": {"sufficient": estimate(0.02)}},
        },
        "coverage": {quantity: dict.fromkeys(("30", "430"), estimate(0.95)) for quantity in ("recovery", "shapley")},
        "stability": {"single": {"30": 0.9, "430": 1.0}},
        "power": {"sufficient": {"1.0": 40}, "necessary": {"1.0": 40}},
    }


def _power() -> list[dict]:
    return [
        {"word": word, "effect": effect, "pairs": pairs, **estimate(min(0.9, effect * pairs / 50))}
        for word in ("sufficient", "necessary")
        for effect in (0.5, 1.0)
        for pairs in (10, 20, 40)
    ]


def _seed(n: int) -> dict[str, float]:
    recovery = [f"recovery_of_4.{chosen}" for chosen in ("best", "ablation")]
    names = ("exact_match.paren", "top_k_recovery.regroup.denoising", *recovery, "largest_shapley.denoising")
    return {**{name: 0.5 + n / 10 for name in names}, "heads.sufficient": 0, "heads.necessary": n}


def worked_examples() -> dict:
    """The contents of runs/examples.json with two pairs for a model of 2 layers of 2 heads."""
    heads = [f"L{layer}H{head}" for layer in range(2) for head in range(2)]

    def side(expression: str, result: str) -> dict:
        tokens = ["", *expression, "="]
        uniform = [[1000 // (i + 1)] * (i + 1) for i in range(len(tokens))]
        attention = dict.fromkeys(heads, uniform)
        return {"expression": expression, "result": result, "tokens": tokens, "answer": result, "attention": attention}

    def pair(clean: dict, corrupt: dict) -> dict:
        patched = {
            direction: {"L0H0": recipient, "L0H1": donor, "L1H0": recipient, "L1H1": "77", "top_k": donor}
            for direction, recipient, donor in (
                ("denoising", corrupt["answer"], clean["answer"]),
                ("noising", clean["answer"], corrupt["answer"]),
            )
        }
        return {"clean": clean, "corrupt": corrupt, "patched": patched}

    return {
        "roles": {"denoising": ["corrupt", "clean"], "noising": ["clean", "corrupt"]},
        "selected": ["L0H1", "L1H1"],
        "pairs": [
            pair(side("8-(3-2)", "7"), side("(8-3)-2", "3")),
            pair(side("9-(4-1)", "6"), side("(9-4)-1", "4")),
        ],
    }
