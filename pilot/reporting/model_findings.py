"""The exhibits of the report: each a picture, a sentence that says how to read it, and a table.

What the sentences conclude is computed from the results. Here: the model, ablation, selection and repair, and the
experiment on planted heads and other training seeds; counterfactual patching is in pilot.reporting.patching_findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pilot.interventions import parse_heads
from pilot.reporting.plot import Mark, Panel, Plot, Table
from pilot.reporting.results import Results, selected_heads, set_name

KINDS = {"flat": "flat", "paren": "parenthesised"}


@dataclass(frozen=True)
class Exhibit:
    """Part of the report. One without plot and values is missing, and its reading says what made it so.

    name      its place in the page, and the stem of its PNG file
    reading   a sentence or two, computed from the results: what to look at and what it means
    values    its table, if that is not simply what the plot shows
    """

    name: str
    title: str
    reading: str
    plot: Plot | None = None
    values: Table | None = None

    @property
    def table(self) -> Table | None:
        return self.values or (self.plot and self.plot.table())


def model_exhibits(results: Results) -> list[Exhibit]:
    """accuracy, training, ablation_<method>, selection, repair_by_head, repair, planted, seeds."""
    return [
        _accuracy(results["train"]),
        _training(results),
        *(_ablation(method, heads) for method, heads in results["ablation"]["impact"].items()),
        _selection(results["selection"]),
        _repair_by_head(results["patching"]["repair"]),
        _repair(results),
        _planted(results["planted"]),
        _seeds(results["seeds"]),
    ]


def mark(rate: Mapping[str, float], scale: float = 1, note: str = "") -> Mark:
    """A value with its interval as the metrics files hold them, in a larger or smaller unit."""
    return Mark(*(scale * rate[part] for part in ("value", "low", "high")), note)


def by_layer(marks: Mapping[str, Mark]) -> Panel:
    """Values of heads (`L2H1`) as a panel of layers and heads."""
    panel: dict[str, dict[str, Mark]] = {}
    for name, value in marks.items():
        (patch,) = parse_heads(name)
        panel.setdefault(f"L{patch.layer}", {})[f"H{patch.head}"] = value
    return panel


def listed(words: Iterable[str], nothing: str = "none") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = list(words) or [nothing]
    return f"{', '.join(others)} and {last}" if others else last


def percent(rate: Mapping[str, float]) -> str:
    return f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def _accuracy(train: Mapping) -> Exhibit:
    metrics = {"exact_match": "whole answer", "last_digit": "last digit", "final_token": "final token"}
    rows = [[KINDS[kind], *(f"{rates[name]:.2%}" for name in metrics)] for kind, rates in train["test"].items()]
    flat, paren = (train["test"][kind] for kind in KINDS)
    reading = (
        f"On unseen expressions the model gives the whole answer right for {flat['exact_match']:.1%} of flat and "
        f"{paren['exact_match']:.1%} of parenthesised ones. The final token is the end marker, the guide's metric: "
        f"{paren['final_token']:.1%} of them are right, which only says that the model knows how long answers are."
    )
    return Exhibit("accuracy", "Accuracy on unseen expressions", reading, values=Table(["", *metrics.values()], rows))


def _training(results: Results) -> Exhibit:
    rows, best = results["training"], results["train"]["best_epoch"]
    series = {
        name: {int(row["epoch"]): Mark(100 * float(row[f"val_{kind}"])) for row in rows} for kind, name in KINDS.items()
    }
    plot = Plot("lines", {"": series}, "kind", "epoch", "exact match on validation (%)", 1, signed=False)
    halves = []
    for name, marks in series.items():
        first = next((epoch for epoch, mark in marks.items() if mark.value >= 50), None)
        halves.append(f"{name} ones in epoch {first}" if first else f"{name} ones in none")
    reading = (
        f"The share of whole answers right, epoch by epoch; the checkpoint of epoch {best} is the one analysed. "
        f"Half of the answers are right for the first time: {listed(halves)}."
    )
    return Exhibit("training", "Accuracy over training", reading, plot)


def _ablation(method: str, heads: Mapping[str, Mapping]) -> Exhibit:
    columns = {"flat": "flat", "paren": "parenthesised", "paren_minus_flat": "parenthesised - flat"}
    panels = {
        title: by_layer({name: mark(impact[column], 100) for name, impact in heads.items()})
        for column, title in columns.items()
    }
    worst = max(heads, key=lambda name: heads[name]["paren"]["value"])
    cost = 100 * heads[worst]["paren"]["value"]
    special = [name for name, impact in heads.items() if impact["paren_minus_flat"]["low"] > 0]
    replaced = {"zero": "zeros", "mean": "its mean", "resample": "its output on another expression"}
    reading = (
        f"Exact match lost when one head's output is replaced by {replaced[method]}; positive (red) means that it "
        f"helps. {worst} costs parenthesised expressions most, {cost:.1f} points. Heads that cost these more than flat "
        f"ones, with an interval above zero: {listed(special)}."
    )
    plot = Plot("heatmap", panels, "layer", "head", "exact match lost (points)", 1)
    return Exhibit(f"ablation_{method}", f"Impact of {method} ablation", reading, plot)


def _selection(selection: Mapping) -> Exhibit:
    heads = sorted(selection["heads"].items(), key=lambda item: item[1]["rank"])
    rows = [
        [
            name,
            str(head["rank"]),
            f"{100 * head['impact']:+.1f}",
            f"{100 * head['confirm_impact']:+.1f}",
            ("selected" if head["selected"] else "")
            + (", below the threshold" if head["selected"] and not head["meets_threshold"] else ""),
        ]
        for name, head in heads
    ]
    chosen = [head for _, head in heads if head["selected"]]
    lost, confirmed = (100 * sum(head[part] for head in chosen) / len(chosen) for part in ("impact", "confirm_impact"))
    reading = (
        f"The {len(chosen)} heads that parenthesised answers need most, chosen on one half of the test lines, where "
        f"they cost {lost:.1f} points on average; on the other half {confirmed:.1f}."
    )
    header = ["head", "rank", "impact, select half (points)", "impact, confirm half (points)", ""]
    return Exhibit("selection", "The selected heads", reading, values=Table(header, rows))


def _repair_by_head(repair: Mapping[str, Mapping]) -> Exhibit:
    titles = {"right_to_wrong": "from right donors", "wrong_to_wrong": "from wrong donors (control)"}
    heads = {name: rates for name, rates in repair.items() if name.startswith("L")}
    panels = {
        title: by_layer({name: mark(rates[kind]["fixed"], 100) for name, rates in heads.items() if kind in rates})
        for kind, title in titles.items()
        if any(kind in rates for rates in heads.values())
    }
    above = [
        name
        for name, rates in heads.items()
        if "wrong_to_wrong" in rates
        and rates["right_to_wrong"]["fixed"]["low"] > rates["wrong_to_wrong"]["fixed"]["high"]
    ]
    reading = (
        "Wrong answers that become right when one head's output comes from another expression. A head that carries "
        "what was missing repairs more from right donors than from wrong ones, which are the control; heads whose "
        f"interval lies above the control's: {listed(above)}."
    )
    plot = Plot("heatmap", panels, "layer", "head", "wrong answers repaired (%)", 1, signed=False)
    return Exhibit("repair_by_head", "Repair by single heads", reading, plot)


def _repair(results: Results) -> Exhibit:
    repair = results["patching"]["repair"]
    keys = [*selected_heads(results), *(key for key in repair if not key.startswith("L"))]
    outcomes = {
        "repaired, right donors": ("right_to_wrong", "fixed"),
        "repaired, wrong donors (control)": ("wrong_to_wrong", "fixed"),
        "turned into the donor's answer": ("right_to_wrong", "adopted"),
    }
    panel = {
        title: {set_name(key, results): mark(repair[key][kind][outcome], 100) for key in keys if kind in repair[key]}
        for title, (kind, outcome) in outcomes.items()
        if any(kind in repair[key] for key in keys)
    }
    top = repair["top_k"]["right_to_wrong"]["fixed"]
    reading = f"Outputs of the selected heads repair {percent(top)} of wrong answers if their donor was answered right"
    if "wrong_to_wrong" in repair["top_k"]:
        control = repair["top_k"]["wrong_to_wrong"]["fixed"]
        verdict = (
            "right donors repair more than wrong ones"
            if top["low"] > control["high"]
            else "there is no evidence that what right donors carry repairs answers"
        )
        reading += f" and {percent(control)} if it was answered wrong: {verdict}"
    plot = Plot("bars", {"": panel}, "outcome", "heads patched", "wrong answers (%)", 1, signed=False)
    return Exhibit("repair", "Repair by sets of heads", reading + ".", plot)


def _planted(planted: Mapping) -> Exhibit:
    title = "The instrument's own test: planted heads"
    if not planted:
        return Exhibit("planted", title, "metrics/planted.json is missing: run dvc repro planted.")
    rows = [
        [kind, method.replace("_", " "), f"{found['auroc']['mean']:.3f}", f"{found['auroc']['least']:.3f}",
         f"{found['planted']:+.3f}", f"{found['others']:.3f}"]
        for kind, methods in planted["found"].items()
        for method, found in methods.items()
    ]  # fmt: skip
    mean, kind, method = min(
        (found["auroc"]["mean"], kind, method.replace("_", " "))
        for kind, methods in planted["found"].items()
        for method, found in methods.items()
    )
    reading = (
        f"Heads hidden in models with weights set by hand, {planted['placements']} circuits of each kind, are to be "
        f"found: the AUROC is 1 if every planted head outranks every other. It is lowest, {mean:.3f} on average, for "
        f"{method} in '{kind}' circuits. Where no head matters, the corrected test names one in "
        f"{percent(planted['false_positives']['any_head'])} of {planted['nulls']} circuits (5 % are allowed)."
    )
    header = ["circuit", "method", "AUROC, mean", "AUROC, least", "planted heads", "others at most"]
    return Exhibit("planted", title, reading, values=Table(header, rows))


def _seeds(seeds: Mapping[str, Mapping[str, float]]) -> Exhibit:
    title = "Other training seeds"
    if not seeds:
        return Exhibit(
            "seeds", title, "metrics/seeds.json is missing: python -m stages.seeds --help says how to make it."
        )

    def span(name: str) -> str:
        values = [values[name] for values in seeds.values()]
        return f"{min(values):.2f} to {max(values):.2f}"

    found = {
        word: sum(values[f"heads.{word}"] > 0 for values in seeds.values()) for word in ("sufficient", "necessary")
    }
    reading = (
        f"The whole pipeline with {len(seeds)} seeds of the first weights and the order of batches. Where parentheses "
        f"moved, the selected heads recover {span('top_k_recovery.regroup.denoising')} by denoising, the best four "
        f"heads {span('recovery_of_4.best')}, the first four by ablation {span('recovery_of_4.ablation')}; the largest "
        f"Shapley value is {span('largest_shapley.denoising')}. A single head is sufficient in {found['sufficient']} "
        f"of them, necessary in {found['necessary']}."
    )
    names = next(iter(seeds.values()))
    rows = [[name.replace(".", ", ").replace("_", " "), *(f"{seeds[s][name]:.3f}" for s in seeds)] for name in names]
    return Exhibit("seeds", title, reading, values=Table(["", *seeds], rows))
