"""Tasks side by side: which heads serve which task."""

from __future__ import annotations

from collections.abc import Mapping

from pilot.experiments.words import WORDS
from pilot.interventions import parse_heads
from pilot.reporting.findings.attribution import USUAL, largest_misses
from pilot.reporting.findings.finding import Finding, by_layer, leading, listed, mark
from pilot.reporting.findings.subsets import heads_for_half, set_panels
from pilot.reporting.language.findings import SET_WORDS
from pilot.reporting.language.results import TaskResults
from pilot.reporting.plot import Panels, Plot, Table

LEADING = 6  # players of each task that stand side by side

ByTask = Mapping[str, TaskResults]


def overview(tasks: ByTask) -> list[Finding]:
    """All findings, in the order of the page."""
    return [compared(tasks), heads_by_task(tasks), layers(tasks)]


def compared(tasks: ByTask) -> Finding:
    columns = [_of_task(results) for results in tasks.values()]
    measures = dict.fromkeys(measure for column in columns for measure in column)
    rows = [[measure, *(column.get(measure, "") for column in columns)] for measure in measures]
    text = (
        "Accuracy is the share of clean and of corrupt prompts that the model answers right. The rest is measured on "
        "the confirm pairs."
    )
    return Finding("tasks", "The tasks", text, values=Table(["", *tasks], rows))


def _of_task(results: TaskResults) -> dict[str, str]:
    """Main results in words."""
    right = results.pairs["accuracy"]
    told = {"accuracy": f"{right['clean']:.0%}, {right['corrupt']:.0%}", "confirm pairs": str(results.n_pairs)}
    for direction, effects in results.effects.items():
        alone = {name: mark(effects[name]["recovery"]) for name in results.heads}
        told[f"most alone, {direction}"] = f"{leading(alone)}, {alone[leading(alone)].text('.2f')}"
    told |= {word: listed(results.holding(word), "no head") for word in WORDS.values()}
    for direction, panel in set_panels(results.best_sets, SET_WORDS).items():
        told[f"heads that recover half, {direction}"] = heads_for_half(panel[SET_WORDS["best"]])
    for direction, methods in largest_misses(results.attributed_heads, results.main_edit).items():
        if USUAL in methods:
            head, exact, said = methods[USUAL]
            told[f"attribution patching misses most, {direction}"] = f"{head}, {said:.2f} instead of {exact:.2f}"
    return told


def heads_by_task(tasks: ByTask) -> Finding:
    """The leading players of each task, in all tasks."""
    heads = sorted({name for results in tasks.values() for name in results.players[:LEADING]}, key=parse_heads)
    panels: Panels = {}
    for task, results in tasks.items():
        for direction, effects in results.effects.items():
            for name in heads:
                panels.setdefault(direction, {}).setdefault(name, {})[task] = mark(effects[name]["recovery"])
    shared = {name: [task for task, results in tasks.items() if name in results.players] for name in heads}
    told = [f"{name} ({listed(among)})" for name, among in shared.items() if len(among) > 1]
    text = (
        f"Recovery by each of the {LEADING} leading heads of every task, in all tasks. Those that are among the "
        f"players of more than one task: {listed(told, 'none')}."
    )
    return Finding("heads_by_task", "Heads by task", text, Plot("heatmap", panels, "head", "task", "recovery"))


def layers(tasks: ByTask) -> Finding:
    panels = {
        f"{task}, {direction}": by_layer({name: mark(rows[name]["recovery"]) for name in results.heads})
        for task, results in tasks.items()
        for direction, rows in results.effects.items()
    }
    text = "Every head of the model alone, in each task and direction, on one scale."
    return Finding("layers", "All heads", text, Plot("heatmap", panels, "layer", "head", "recovery"))
