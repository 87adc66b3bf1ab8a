"""The results in the README are those of metrics/. After a run that changed them, the failure says what to write.

Every number of the section must be in one of the sentences here, and what its words claim is asserted.
"""

from __future__ import annotations

import csv
import json
import re
from typing import Any

import pytest
import yaml
from support.docs import PAGES, section_of
from support.project import ROOT

EDITS = ("regroup", "operator", "operand")


def _metrics(name: str) -> Any:
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text())


COUNTERFACTUAL, SELECTION = _metrics("counterfactual"), _metrics("selection")
REPAIR = _metrics("patching")["repair"]["top_k"]
DENOISING = {edit: COUNTERFACTUAL["effects"][edit]["denoising"] for edit in EDITS}
SHAPLEY = {head: estimate["value"] for head, estimate in COUNTERFACTUAL["shapley"]["denoising"].items()}
LARGEST = max(SHAPLEY, key=SHAPLEY.__getitem__)
SELECTED = [head for head, row in SELECTION["heads"].items() if row["selected"]]
PLANTED = _metrics("planted")
WORDS = ("sufficient", "necessary", "redundant")


def _sets(size: int, folder: str = "") -> dict[str, dict[str, Any]]:
    """Sets of so many heads by the way they were chosen, clean into corrupt."""
    with (ROOT / "metrics" / folder / "best_sets.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["direction"], row["size"]) == ("denoising", str(size))]
    numbers = ("value", "low", "high")
    return {row["set"]: row | {name: float(row[name]) for name in numbers if row[name]} for row in rows}


FOUR = _sets(4)


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


SEEDS = list(_metrics("seeds").values())[1:]  # the results of the other trainings


def _four(seed: dict[str, float]) -> str:
    """Recovery of four heads: the best, those that ablation ranks first, and the average set."""
    best, ablation, average = (f"{100 * seed[f'recovery_of_4.{name}']:.0f}" for name in ("best", "ablation", "average"))
    return f"{best}, {ablation} and {average} %"


def _task_row(task: str, title: str) -> str:
    """Of the table of tasks: the pairs, the two heads of largest effect alone, and the best sets of two and four."""
    folder = f"language/{task}"
    measured = _metrics(f"{folder}/counterfactual")
    (edit,) = measured["effects"]
    alone = {head: measured["effects"][edit]["denoising"][head]["recovery"] for head in measured["verdict"]}
    leading = sorted(alone, key=lambda head: -alone[head]["value"])[:2]
    best = [_sets(size, folder)["best"] for size in (2, 4)]
    cells = [
        title,
        str(measured["pairs"][edit]["confirm"]["usable"]),
        ", ".join(f"{head} {_interval(alone[head])}" for head in leading),
        *(f"{row['heads']} {_interval(row)}" for row in best),
    ]
    return f"| {' | '.join(cells)} |"


def _pairs(counts: dict[str, Any], folder: str) -> str:
    usable = counts["confirm"]["usable"]
    params = yaml.safe_load((ROOT / folder / "params.yaml").read_text())["counterfactual"]
    return f"Results on {usable} held-out pairs, sets of heads on {min(usable, params['exhaustive_pairs'])} of them,"


def _attributions(head: str) -> dict[str, float]:
    """Recovery of a head by method, clean into corrupt."""
    with (ROOT / "metrics/language/ioi/attribution.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["direction"], row["head"]) == ("denoising", head)]
    return {row["method"]: float(row["value"]) for row in rows}


def _language_sentences() -> list[str]:
    measured = _metrics("language/ioi/counterfactual")
    alone = {head: row["recovery"] for head, row in measured["effects"]["giver"]["denoising"].items()}
    two, four = _sets(2, "language/ioi"), _sets(4, "language/ioi")
    approximate = _attributions("L20H0")
    predicted = _metrics("language/ioi/attribution")["sets"]["denoising"]["predicted"]["atp_recipient"]["error"]
    return [
        _pairs(measured["pairs"]["giver"], "language"),
        f"necessary too: L23H3 recovers {_interval(alone['L23H3'])}, L20H0 {_interval(alone['L20H0'])} and L29H1 "
        f"{_interval(alone['L29H1'])}.",
        f"together recover {_interval(two['best'])}, where their effects alone add up to "
        f"{_percent(two['sum']['value'])}.",
        f"L24H4 recovers {_interval(alone['L24H4'])} alone",
        f"recover {_interval(four['best'])}; the four heads of largest effect alone recover "
        f"{_interval(four['single'])}.",
        f"gives L20H0 {_percent(approximate['atp_recipient'])} on the pairs where patching gives it "
        f"{_percent(approximate['exact'])}. Added up, its scores miss a set's recovery by "
        f"{_percent(predicted['value'])} (root mean square over all sets).",
        _task_row("ioi", "who gives (IOI)"),
        _task_row("greater-than", "greater-than"),
        _task_row("agreement", "agreement with an attractor"),
    ]


def _arithmetic_sentences() -> list[str]:
    accuracy = _metrics("train")["test"]
    layers = [sum(value for head, value in SHAPLEY.items() if head.startswith(f"L{layer}H")) for layer in range(4)]
    recovery = {edit: DENOISING[edit]["top_k"]["recovery"] for edit in EDITS}
    regroup = DENOISING["regroup"]
    turned = {name: _percent(row["flip_rate"]["value"]) for name, row in regroup.items()}
    false = {word: _interval(_false_positives(word), 1) for word in WORDS}
    right, earned = _words_of_planted_heads()
    return [
        _pairs(COUNTERFACTUAL["pairs"]["regroup"], ""),
        f"The most important head, {LARGEST}, has a Shapley value of "
        f"{_interval(COUNTERFACTUAL['shapley']['denoising'][LARGEST])}",
        f"The four layers contribute {', '.join(map(_percent, layers[:-1]))} and {_percent(layers[-1])}.",
        f"recover {_interval(FOUR['best'])}, the four that ablation ranks first {_interval(FOUR['ablation'])}, the "
        f"average set of four {_percent(FOUR['average']['value'])}; with the other seeds {_four(SEEDS[0])}, and "
        f"{_four(SEEDS[1])}.",
        f"({', '.join(SELECTED)}) recover {_interval(recovery['regroup'])} and turn {turned['top_k']} of the answers",
        f"They recover {_percent(recovery['operator']['value'])} where the pairs differ in an operator instead, and "
        f"{_percent(recovery['operand']['value'])} where they differ in an operand.",
        f"repair {_interval(REPAIR['right_to_wrong']['fixed'], 1)} of the wrong answers; from other wrongly answered "
        f"ones, the control, they repair {_interval(REPAIR['wrong_to_wrong']['fixed'], 1)}.",
        f"In {PLANTED['nulls']} circuits without such a head, one is called sufficient in {false['sufficient']}, "
        f"necessary in {false['necessary']} and redundant in {false['redundant']} of them. With {PAIRS} pairs {right} "
        f"of {earned} words that planted heads earn are given.",
        f"{_percent(accuracy['flat']['exact_match'], 2)} of unseen flat expressions and "
        f"{_percent(accuracy['paren']['exact_match'], 2)} of unseen parenthesised ones",
    ]


LANGUAGE, ARITHMETIC = "What a language model shows", "What a transformer trained on arithmetic shows"
FIXED = {  # numbers that no run changes
    LANGUAGE: (
        "SmolLM2-135M-Instruct (30 layers of 9 heads, 4-bit weights)",
        "0 % if it does nothing",
        "100 % if it does everything",
        "95 % intervals",
        "from 0: L23H3 is head 3 of layer 23",
    ),
    ARITHMETIC: ("of layer 0",),
}
SECTIONS = ((LANGUAGE, _language_sentences), (ARITHMETIC, _arithmetic_sentences))


def _section(title: str) -> str:
    return " ".join(section_of("README.md", title).split())


@pytest.mark.parametrize(("title", "sentences"), SECTIONS)
def test_its_numbers_are_those_of_metrics(title, sentences):
    missing = [sentence for sentence in sentences() if sentence not in _section(title)]
    assert not missing, "README.md should say:\n" + "\n".join(missing)


@pytest.mark.parametrize(("title", "sentences"), SECTIONS)
def test_it_quotes_no_other_number(title, sentences):
    rest = _section(title)
    for words in (*sentences(), *FIXED[title]):
        rest = rest.replace(words, "")
    assert re.findall(r"\S*\d\S*", re.sub(r"L\d+H\d+", "", rest)) == []


def test_what_it_claims_of_the_language_model_holds():
    verdict = _metrics("language/ioi/counterfactual")["verdict"]
    assert {head for head in verdict if verdict[head]["sufficient"]} == {"L23H3", "L20H0", "L29H1"}
    assert {head for head in verdict if verdict[head]["necessary"]} == {"L23H3", "L20H0", "L29H1", "L17H4"}
    assert _sets(2, "language/ioi")["best"]["heads"] == "L20H0+L23H3"
    assert "L24H4" in _sets(4, "language/ioi")["best"]["heads"]


def test_what_it_claims_of_the_arithmetic_model_holds():
    verdict = COUNTERFACTUAL["verdict"]
    assert [head for head in verdict if verdict[head]["sufficient"]] == []
    assert [seed["heads.sufficient"] for seed in SEEDS] == [1, 1]
    assert [head for head in verdict if verdict[head]["necessary"]] == [LARGEST]
    assert FOUR["best"]["heads"] == "L0H0+L0H1+L0H2+L0H3"
    assert FOUR["best"]["low"] > FOUR["ablation"]["high"]
    assert len(SELECTED) == 3
    assert REPAIR["right_to_wrong"]["fixed"]["low"] < REPAIR["wrong_to_wrong"]["fixed"]["high"]


def test_it_compares_with_peers_as_measured():
    peers = _metrics("peers")
    heads, sets = (peers[sweep]["speedup_over_the_better"] for sweep in ("all_heads", "every_set"))
    words = f"{heads:.0f} times as fast as the faster one for all heads and {sets:.0f} times for all sets"
    assert words in " ".join(PAGES["README.md"].split())
    assert max(peers["largest_difference_of_recovery"].values()) < 1e-4


def test_it_stays_short():
    assert len(PAGES["README.md"].splitlines()) <= 120
