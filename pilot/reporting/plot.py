"""What a plot shows, whatever draws it: pilot.reporting.plotly_charts or pilot.reporting.matplotlib_figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pilot.experiments.statistics import Estimate

# Okabe & Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MUTED_COLOUR = "#BBBBBB"  # of rows in the background
REFERENCE_COLOUR = "#777777"  # of rows to compare with
# ColorBrewer's RdBu, reversed, for signed values: white is zero; and its Blues for shares (https://colorbrewer2.org).
DIVERGING = ("#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7",
             "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f")  # fmt: skip
SEQUENTIAL = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b")


class Mark(NamedTuple):
    """A value, with its interval and a note where it has them."""

    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def margins(self) -> tuple[float, float] | None:
        """How far the interval reaches below and above the value, 0 or more."""
        if self.low is None or self.high is None:
            return None
        return max(0.0, self.value - self.low), max(0.0, self.high - self.value)

    def text(self, spec: str) -> str:
        """`+0.43 [+0.40, +0.46] note` where the format `spec` is `+.2f`."""
        if self.low is None or self.high is None:
            number = format(self.value, spec)
        else:
            number = format(Estimate(self.value, self.low, self.high), spec)
        return f"{number} {self.note}".rstrip()


Label = str | float  # of a column
Row = Mapping[Label, Mark]
Panel = Mapping[str, Row]
Panels = dict[str, dict[str, dict[Label, Mark]]]  # while they are put together: title, row, column


class Series(NamedTuple):
    """A row of bars or lines, and how to draw it.

    shape   number of its marker or hatch, which tells it from others of its colour
    muted   small, under the others, and not in the legend
    """

    name: str
    marks: Row
    colour: str
    shape: int
    muted: bool = False


class Table(NamedTuple):
    """Text in rows under a header; the first column says what a row is about."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Plot:
    """Panels of one kind that share a scale.

    kind         "heatmap": a cell for each row and column; "bars": a bar for each column, in a colour for each row;
                 "lines": a line for each row, over columns that are numbers
    panels       title -> row -> column -> Mark; no panel is empty, but a row may lack columns
    rows         what the rows are
    columns      what the columns are
    value        what the values are, with their unit
    decimals     digits after the point
    signed       whether values may be negative; if not, scales start at zero
    muted        rows that are only background: not in the legend
    references   rows that the others are compared with: in grey
    log_columns  whether the columns of lines are on a logarithmic scale
    """

    kind: Literal["heatmap", "bars", "lines"]
    panels: Mapping[str, Panel]
    rows: str
    columns: str
    value: str
    decimals: int = 2
    signed: bool = True
    muted: frozenset[str] = frozenset()
    references: frozenset[str] = frozenset()
    log_columns: bool = False

    def text(self, mark: Mark) -> str:
        """A value of this plot with its interval and note."""
        return mark.text(f"{'+' if self.signed else ''}.{self.decimals}f")

    @property
    def marks(self) -> Iterator[Mark]:
        return (mark for panel in self.panels.values() for row in panel.values() for mark in row.values())

    @property
    def limit(self) -> float:
        """The largest absolute value, where the colours end."""
        return max((abs(mark.value) for mark in self.marks), default=0) or 1

    @property
    def is_small(self) -> bool:
        """Whether it is a heatmap with room for a number in every cell."""
        return self.kind == "heatmap" and all(len(columns_of(panel)) <= 6 for panel in self.panels.values())

    @property
    def across(self) -> int:
        """How many panels stand side by side on a page."""
        return 3 if len(self.panels) % 3 == 0 else min(2, len(self.panels))

    def series(self, panel: Panel) -> Iterator[Series]:
        """The rows of a panel in the order in which they are drawn: background first, then references, then others."""
        for row in panel:
            if row in self.muted:
                yield Series(row, panel[row], MUTED_COLOUR, 0, muted=True)
        for i, row in enumerate(row for row in panel if row in self.references):
            yield Series(row, panel[row], REFERENCE_COLOUR, i)
        for i, row in enumerate(row for row in panel if row not in self.muted | self.references):
            yield Series(row, panel[row], COLOURS[i % len(COLOURS)], i)

    def table(self) -> Table:
        """All values as text: a row for each cell of a heatmap, else for each column."""
        if self.kind == "heatmap":
            cells = dict.fromkeys(
                (row, column) for panel in self.panels.values() for row in panel for column in panel[row]
            )
            return Table(
                [self.rows, self.columns, *self.panels],
                [
                    [row, _plain(column), *(self._cell(panel, row, column) for panel in self.panels.values())]
                    for row, column in cells
                ],
            )
        series = [(title, row) for title, panel in self.panels.items() for row in panel]
        columns = dict.fromkeys(column for panel in self.panels.values() for column in columns_of(panel))
        return Table(
            [self.columns, *(f"{title}: {row}" if len(self.panels) > 1 else row for title, row in series)],
            [
                [_plain(column), *(self._cell(self.panels[title], row, column) for title, row in series)]
                for column in columns
            ],
        )

    def _cell(self, panel: Panel, row: str, column: Label) -> str:
        mark = panel.get(row, {}).get(column)
        return "" if mark is None else self.text(mark)


def columns_of(panel: Panel) -> list[Label]:
    """The columns of a panel, each once, in the order in which its rows have them."""
    return list(dict.fromkeys(column for row in panel.values() for column in row))


def cells_of(panel: Panel) -> list[list[Mark | None]]:
    """A list for each row, with None where the row lacks a column of the panel."""
    columns = columns_of(panel)
    return [[marks.get(column) for column in columns] for marks in panel.values()]


def _plain(label: Label) -> str:
    return str(label).replace("\n", " ")  # a label on an axis may have two lines
