"""What a finding is, and the words and marks that findings share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pilot.experiments.statistics import Estimate
from pilot.interventions import parse_heads
from pilot.reporting.plot import Label, Mark, Panel, Plot, Table

EDIT_WORDS = {"regroup": "parentheses moved", "operator": "operator changed", "operand": "operand changed"}


@dataclass(frozen=True)
class Finding:
    """A few sentences computed from the measurements, with a plot and a table of their numbers.

    name     its place in the page, and the stem of its PNG file
    text     how to read the numbers, and what they say; of a finding without numbers, why there are none
    values   the table, where it is not simply what the plot shows
    """

    name: str
    title: str
    text: str
    plot: Plot | None = None
    values: Table | None = None

    @property
    def table(self) -> Table | None:
        if self.values or not self.plot:
            return self.values
        return self.plot.table()


def mark(entry: Mapping[str, float], scale: float = 1) -> Mark:
    """A value with its interval, as the metrics files hold it, in a unit `scale` times as small."""
    return Mark(scale * entry["value"], scale * entry["low"], scale * entry["high"])


def estimate(entry: Mapping[str, float]) -> Estimate:
    """The same, to be formatted: `f"{estimate(entry):.1%}"`."""
    return Estimate(entry["value"], entry["low"], entry["high"])


def by_layer(marks: Mapping[str, Mark]) -> Panel:
    """Values of heads (`L2H1`) as a panel of layers and heads."""
    panel: dict[str, dict[Label, Mark]] = {}
    for name, value in marks.items():
        (patch,) = parse_heads(name)
        panel.setdefault(f"L{patch.layer}", {})[f"H{patch.head}"] = value
    return panel


def leading(marks: Mapping[str, Mark]) -> str:
    """The name of the largest value."""
    return max(marks, key=lambda name: marks[name].value)


def listed(words: Iterable[str], nothing: str = "none") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = list(words) or [nothing]
    return f"{', '.join(others)} and {last}" if others else last


def set_name(key: str, n_selected: int) -> str:
    """What to call a patched set of heads, by its key in patching.json and counterfactual.json."""
    if key.startswith("top_k@"):
        return f"the {n_selected} selected, positions {key.removeprefix('top_k@')}"
    names = {
        "top_k": f"the {n_selected} selected heads",
        "bottom_k": f"the {n_selected} lowest-ranked heads",
        "random_k": f"{n_selected} heads drawn at random",
        "all_heads": "all heads",
    }
    return names.get(key, key)
