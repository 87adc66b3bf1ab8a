"""Repair: does the output of a head in a correctly answered expression mend a wrong answer?"""

from __future__ import annotations

from pilot.reporting.findings.finding import Finding, by_layer, estimate, listed, mark, set_name
from pilot.reporting.measurements import Measurements
from pilot.reporting.plot import Label, Mark, Plot


def repair_by_head(measured: Measurements) -> Finding:
    heads = {name: rates for name, rates in measured.repair["repair"].items() if name.startswith("L")}
    donors = {"right_to_wrong": "from right donors", "wrong_to_wrong": "from wrong donors (control)"}
    panels = {
        words: by_layer({name: mark(rates[kind]["fixed"], 100) for name, rates in heads.items() if kind in rates})
        for kind, words in donors.items()
        if any(kind in rates for rates in heads.values())
    }
    above = [
        name
        for name, rates in heads.items()
        if "wrong_to_wrong" in rates
        and rates["right_to_wrong"]["fixed"]["low"] > rates["wrong_to_wrong"]["fixed"]["high"]
    ]
    text = (
        "The share of wrong answers that become right when one head's output is taken from another expression. A head "
        "that carries what was missing repairs more if the other expression, the donor, was answered right. Heads "
        f"whose interval lies above that of wrong donors: {listed(above)}."
    )
    plot = Plot("heatmap", panels, "layer", "head", "wrong answers repaired (%)", 1, signed=False)
    return Finding("repair_by_head", "Repair by single heads", text, plot)


def repair(measured: Measurements) -> Finding:
    repaired = measured.repair["repair"]
    keys = [*measured.selected, *(key for key in repaired if not key.startswith("L"))]
    outcomes = {
        "repaired, right donors": ("right_to_wrong", "fixed"),
        "repaired, wrong donors (control)": ("wrong_to_wrong", "fixed"),
        "turned into the donor's answer": ("right_to_wrong", "adopted"),
    }
    panel: dict[str, dict[Label, Mark]] = {
        words: {
            set_name(key, len(measured.selected)): mark(repaired[key][kind][outcome], 100)
            for key in keys
            if kind in repaired[key]
        }
        for words, (kind, outcome) in outcomes.items()
        if any(kind in repaired[key] for key in keys)
    }
    right = estimate(repaired["top_k"]["right_to_wrong"]["fixed"])
    text = f"Outputs of the selected heads repair {right:.1%} of wrong answers if the donor was answered right"
    if "wrong_to_wrong" in repaired["top_k"]:
        wrong = estimate(repaired["top_k"]["wrong_to_wrong"]["fixed"])
        text += f", and {wrong:.1%} if it was answered wrong"
        if right.low > wrong.high:
            text += ": right donors repair more"
        elif wrong.low > right.high:
            text += ": wrong donors repair more"
        else:
            text += ". The intervals overlap: there is no evidence that right donors repair more"
    plot = Plot("bars", {"": panel}, "outcome", "heads patched", "wrong answers (%)", 1, signed=False)
    return Finding("repair", "Repair by sets of heads", f"{text}.", plot)
