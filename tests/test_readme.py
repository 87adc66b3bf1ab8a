"""The results in the README are those of metrics/. After a run that changed them, the failure says what to write.

Every number of the section must be in one of the sentences here, and what its words claim is asserted.
"""

from __future__ import annotations

import csv
import json
import re
from typing import Any

from support.docs import PAGES, section_of
from support.project import ROOT

EDITS = ("regroup", "operator", "operand")


def _metrics(name: str) -> Any:
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text())


COUNTERFACTUAL, SELECTION, SEEDS = _metrics("counterfactual"), _metrics("selection"), _metrics("seeds")
REPAIR = _metrics("patching")["repair"]["top_k"]
DENOISING = {edit: COUNTERFACTUAL["effects"][edit]["denoising"] for edit in EDITS}
SHAPLEY = {head: estimate["value"] for head, estimate in COUNTERFACTUAL["shapley"]["denoising"].items()}
LARGEST = max(SHAPLEY, key=SHAPLEY.__getitem__)
SELECTED = [head for head, row in SELECTION["heads"].items() if row["selected"]]
OTHER_SEEDS = list(SEEDS.values())[1:]
PLANTED = _metrics("planted")
WORDS = ("sufficient", "necessary", "redundant")


def _sets_of_four() -> dict[str, dict[str, Any]]:
    """The best, ablation's first and the average four heads, clean into corrupt."""
    with (ROOT / "metrics/best_sets.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["direction"], row["size"]) == ("denoising", "4")]
    numbers = ("value", "low", "high")
    return {row["set"]: row | {name: float(row[name]) for name in numbers if row[name]} for row in rows}


FOUR = _sets_of_four()


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _interval(estimate: dict[str, float], digits: int = 0) -> str:
    low, high = (f"{100 * estimate[end]:.{digits}f}" for end in ("low", "high"))
    return f"{_percent(estimate['value'], digits)} [{low}, {high}]"


PAIRS = max(PLANTED["circuits"]["single"], key=int)


def _false_positives(word: str) -> dict[str, float]:
    """The worst of the kinds of circuits in which no head should get the word."""
    rates = [
        by_word[word] for kinds in PLANTED["false_positives"].values() for by_word in kinds.values() if word in by_word
    ]
    return max(rates, key=lambda rate: rate["value"])


def _words_of_planted_heads() -> tuple[int, int]:
    """How many words were rightly given, and how many are earned, with PAIRS pairs."""
    counts = [kinds[PAIRS][word] for kinds in PLANTED["circuits"].values() for word in WORDS]
    return sum(int(count["right"]) for count in counts), sum(int(count["earned"]) for count in counts)


def _sentences() -> list[str]:
    accuracy = _metrics("train")["test"]
    layers = [sum(value for head, value in SHAPLEY.items() if head.startswith(f"L{layer}H")) for layer in range(4)]
    recovery = {edit: DENOISING[edit]["top_k"]["recovery"] for edit in EDITS}
    regroup = DENOISING["regroup"]
    turned = {name: _percent(row["flip_rate"]["value"]) for name, row in regroup.items()}
    wrong = {name: _percent(row["wrong_donor"]["value"]) for name, row in regroup.items() if "wrong_donor" in row}
    false = {word: _interval(_false_positives(word), 1) for word in WORDS}
    right, earned = _words_of_planted_heads()
    other_seeds = {
        name: " and ".join(_percent(seed[f"recovery_of_4.{name}"]) for seed in OTHER_SEEDS)
        for name in ("best", "ablation")
    }
    return [
        f"results on {COUNTERFACTUAL['pairs']['regroup']['confirm']['usable']} held-out pairs",
        f"The most important head, {LARGEST}, has a Shapley value of "
        f"{_interval(COUNTERFACTUAL['shapley']['denoising'][LARGEST])}",
        f"The four layers contribute {', '.join(map(_percent, layers[:-1]))} and {_percent(layers[-1])}.",
        f"recover {_interval(FOUR['best'])}. The four heads that ablation ranks first recover "
        f"{_interval(FOUR['ablation'])}, the average set of four {_percent(FOUR['average']['value'])}.",
        f"({', '.join(SELECTED)}) recover {_interval(recovery['regroup'])} and turn {turned['top_k']} of the answers",
        f"They recover {_percent(recovery['operator']['value'])} where the pairs differ in an operator instead, and "
        f"{_percent(recovery['operand']['value'])} where they differ in an operand.",
        f"their best four heads recover {other_seeds['best']}, ablation's first four {other_seeds['ablation']}.",
        f"repair {_interval(REPAIR['right_to_wrong']['fixed'], 1)} of the wrong answers; from other wrongly answered "
        f"ones, the control, they repair {_interval(REPAIR['wrong_to_wrong']['fixed'], 1)}.",
        f"In {PLANTED['nulls']} circuits without such a head, one is called sufficient in {false['sufficient']}, "
        f"necessary in {false['necessary']} and redundant in {false['redundant']} of them. With {PAIRS} pairs {right} "
        f"of {earned} words that planted heads earn are given.",
        f"| the 3 selected heads | {_interval(regroup['top_k']['recovery'])} | {wrong['top_k']} | {turned['top_k']} |",
        f"| the 3 heads ranked last | {_interval(regroup['bottom_k']['recovery'])} | {wrong['bottom_k']} | "
        f"{turned['bottom_k']} |",
        f"| 3 heads at random | {_interval(regroup['random_k']['recovery'])} | | {turned['random_k']} |",
        f"| all 16 heads | {_percent(regroup['all_heads']['recovery']['value'])} | {wrong['all_heads']} | "
        f"{turned['all_heads']} |",
        f"{_percent(accuracy['flat']['exact_match'], 2)} of unseen flat expressions and "
        f"{_percent(accuracy['paren']['exact_match'], 2)} of unseen parenthesised ones",
    ]


def _section() -> str:
    return " ".join(section_of("README.md", "What one run found").split())


def test_its_numbers_are_those_of_metrics():
    missing = [sentence for sentence in _sentences() if sentence not in _section()]
    assert not missing, "README.md should say:\n" + "\n".join(missing)


def test_it_quotes_no_other_number():
    rest = _section()
    for sentence in _sentences():
        rest = rest.replace(sentence, "")
    fixed = (
        "0 % if it does nothing",
        "100 % if it does everything",
        "95 % intervals",
        "from 0: L0H3 is head 3 of layer 0",
        "of layer 0",
    )
    for words in fixed:
        rest = rest.replace(words, "")
    assert re.findall(r"\S*\d\S*", rest) == []


def test_what_its_words_claim_holds():
    verdict = COUNTERFACTUAL["verdict"]
    assert [head for head in verdict if verdict[head]["sufficient"]] == []
    assert [head for head in verdict if verdict[head]["necessary"]] == [LARGEST]
    assert FOUR["best"]["heads"] == "L0H0+L0H1+L0H2+L0H3"
    assert FOUR["best"]["low"] > FOUR["ablation"]["high"]
    assert len(SELECTED) == 3
    assert len(OTHER_SEEDS) == 2
    assert all(seed["recovery_of_4.best"] > seed["recovery_of_4.ablation"] for seed in OTHER_SEEDS)
    assert sum(seed["heads.sufficient"] > 0 for seed in OTHER_SEEDS) == 1
    assert max(seed["heads.sufficient"] for seed in OTHER_SEEDS) == 1
    assert REPAIR["right_to_wrong"]["fixed"]["low"] < REPAIR["wrong_to_wrong"]["fixed"]["high"]


def test_it_stays_short():
    assert len(PAGES["README.md"].splitlines()) <= 120
