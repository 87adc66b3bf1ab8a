"""What pictures show; plotly_charts and matplotlib_figures beside this module draw the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

# Okabe & Ito's colours, told apart by colour-blind readers too; number -1 is a grey for what is only background.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#BBBBBB")
# ColorBrewer's RdBu, reversed, for signed values: white is zero; and its Blues for shares (https://colorbrewer2.org).
DIVERGING = ("#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7",
             "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f")  # fmt: skip
SEQUENTIAL = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b")


class Mark(NamedTuple):
    """A value, with its interval where it has one and what else to say of it."""

    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""


Panel = Mapping[str, Mapping[str | float, Mark]]


class Table(NamedTuple):
    """Text in rows under a header; the first column says what a row is about."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Plot:
    """Panels of one kind that share a scale.

    kind      "heatmap": a cell for each row and column, "bars": a bar for each column, in a colour for each row,
              "lines": a line for each row, over columns that are numbers
    panels    title -> row -> column -> Mark; no panel is empty, but rows and columns may be missing in some
    rows      what the rows are
    columns   what the columns are
    value     what the values are, with their unit
    decimals  digits shown after the point
    signed    values have a sign that matters; if not they count from zero up
    muted     rows that are only background
    """

    kind: Literal["heatmap", "bars", "lines"]
    panels: Mapping[str, Panel]
    rows: str
    columns: str
    value: str
    decimals: int = 2
    signed: bool = True
    muted: frozenset[str] = frozenset()

    def text(self, mark: Mark) -> str:
        """`+0.43 [+0.40, +0.46]`, the note behind it."""
        value, *interval = (
            None if part is None else f"{part:{'+' if self.signed else ''}.{self.decimals}f}" for part in mark[:3]
        )
        return value + (f" [{', '.join(interval)}]" if None not in interval else "") + (mark.note and f" {mark.note}")

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

    def series(self, panel: Panel) -> Iterator[tuple[int, str, Mapping[str | float, Mark]]]:
        """The rows of a panel with the numbers that their colours and markers go by: background first, which is -1."""
        yield from ((-1, row, panel[row]) for row in panel if row in self.muted)
        foreground = [row for row in panel if row not in self.muted]
        yield from ((i % len(COLOURS[:-1]), row, panel[row]) for i, row in enumerate(foreground))

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

    def _cell(self, panel: Panel, row: str, column: str | float) -> str:
        mark = panel.get(row, {}).get(column)
        return "" if mark is None else self.text(mark)


def columns_of(panel: Panel) -> list[str | float]:
    """The columns of all rows of a panel, each once, in the order in which they come."""
    return list(dict.fromkeys(column for row in panel.values() for column in row))


def cells_of(panel: Panel) -> list[list[Mark | None]]:
    """A list for each row with an entry for each column of the panel, None where there is no value."""
    columns = columns_of(panel)
    return [[marks.get(column) for column in columns] for marks in panel.values()]


def _plain(label: str | float) -> str:
    return str(label).replace("\n", " ")  # a label on an axis may have two lines
