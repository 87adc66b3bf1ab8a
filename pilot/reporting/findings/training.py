"""The trained model: how often it is right, how that and its heads develop, and whether other seeds agree."""

from __future__ import annotations

from pilot.reporting.findings.finding import Finding, leading, listed
from pilot.reporting.measurements import KIND_WORDS, Measurements
from pilot.reporting.plot import Label, Mark, Panels, Plot, Row, Table
from pilot.reporting.seeds import comparable, is_stale

EFFECT_WORDS = {"ablation_paren": "ablation impact", "denoising": "denoising", "noising": "noising"}


def accuracy(measured: Measurements) -> Finding:
    measures = {"exact_match": "whole answer", "last_digit": "last digit", "final_token": "end marker"}
    test = measured.train["test"]
    rows = [[words, *(f"{test[kind][name]:.2%}" for name in measures)] for kind, words in KIND_WORDS.items()]
    text = (
        f"On unseen expressions the best checkpoint gives the whole answer right for {test['flat']['exact_match']:.1%} "
        f"of flat and {test['paren']['exact_match']:.1%} of parenthesised ones. The end marker alone is right in "
        f"{test['paren']['final_token']:.1%} of the latter; it takes no more than the length of the answer."
    )
    return Finding("accuracy", "Accuracy on unseen expressions", text, values=Table(["", *measures.values()], rows))


def training(measured: Measurements) -> Finding:
    series: dict[str, dict[Label, Mark]] = {
        words: {int(row["epoch"]): Mark(100 * float(row[f"val_{kind}"])) for row in measured.training}
        for kind, words in KIND_WORDS.items()
    }
    reached = []
    for words, marks in series.items():
        epoch = next((epoch for epoch, mark in marks.items() if mark.value >= 50), None)
        reached.append(f"{words} ones never" if epoch is None else f"{words} ones in epoch {epoch}")
    text = (
        "The share of validation answers that are right as a whole, epoch by epoch. The best checkpoint is that of "
        f"epoch {measured.train['best_epoch']}, when most parenthesised answers were right. Half of the answers are "
        f"right for the first time: {listed(reached)}."
    )
    plot = Plot("lines", {"": series}, "kind", "epoch", "exact match on validation (%)", 1, signed=False)
    return Finding("training", "Accuracy over training", text, plot)


def trajectory(measured: Measurements) -> Finding:
    title = "The heads over training"
    if not measured.trajectory:
        return Finding("trajectory", title, "metrics/trajectory.csv is missing: run dvc repro trajectory.")
    panels: Panels = {}
    for row in measured.trajectory:
        if row["measure"] in EFFECT_WORDS:
            heads = panels.setdefault(EFFECT_WORDS[row["measure"]], {})
            heads.setdefault(row["head"], {})[int(row["epoch"])] = Mark(float(row["value"]))
    largest = {words: leading({name: _last(marks) for name, marks in heads.items()}) for words, heads in panels.items()}
    told = (f"{name} by {words} ({_growth(panels[words][name])})" for words, name in largest.items())
    shown = {*measured.selected, *largest.values()}
    text = (
        "The effect of each head at the checkpoints kept during training; the selected heads and the leading ones are "
        f"in colour. At the last checkpoint it is largest for {listed(told)}."
    )
    muted = frozenset(name for heads in panels.values() for name in heads if name not in shown)
    return Finding("trajectory", title, text, Plot("lines", panels, "head", "epoch", "effect", muted=muted))


def seeds(measured: Measurements) -> Finding:
    title = "Other training seeds"
    by_seed = measured.seeds
    if not by_seed:
        missing = "metrics/seeds.json is missing: python -m stages.seeds --help says how to make it."
        return Finding("seeds", title, missing)

    def span(name: str) -> str:
        values = [values[name] for values in by_seed.values()]
        return f"{min(values):.2f} to {max(values):.2f}"

    def seeds_with(word: str) -> str:
        return f"{sum(values[f'heads.{word}'] > 0 for values in by_seed.values())} of {len(by_seed)} seeds"

    text = (
        f"The whole pipeline with {len(by_seed)} seeds of the initial weights and the order of batches. Where "
        f"parentheses moved, the selected heads recover {span('top_k_recovery.regroup.denoising')} by denoising, the "
        f"best four heads {span('recovery_of_4.best')}, the four of largest ablation impact "
        f"{span('recovery_of_4.ablation')}; the largest Shapley value is {span('largest_shapley.denoising')}. Some "
        f"single head is sufficient for {seeds_with('sufficient')}, necessary for {seeds_with('necessary')}."
    )
    if seeds_are_stale(measured):
        text = f"This comparison was made from other results than those on this page. {text}"
    names = next(iter(by_seed.values()))
    rows = [[_plain(name), *(f"{values[name]:.3g}" for values in by_seed.values())] for name in names]
    return Finding("seeds", title, text, values=Table(["", *by_seed], rows))


def seeds_are_stale(measured: Measurements) -> bool:
    """Whether there is a comparison of seeds, and the present results are not in it."""
    if not measured.seeds:
        return False
    if "shapley" not in measured.counterfactual:  # the comparison is of Shapley values, too
        return True
    return is_stale(measured.seeds, comparable(measured.train, measured.counterfactual, measured.best_sets))


def _last(marks: Row) -> Mark:
    return list(marks.values())[-1]


def _growth(marks: Row) -> str:
    """`0.29, half of it by epoch 2`; an effect that ends below zero has no half-way point."""
    last = _last(marks).value
    half = next((epoch for epoch, mark in marks.items() if mark.value >= last / 2), None) if last > 0 else None
    return f"{last:.2f}" if half is None else f"{last:.2f}, half of it by epoch {half}"


def _plain(name: str) -> str:
    return name.replace("top_k", "selected heads").replace(".", ", ").replace("_", " ")
