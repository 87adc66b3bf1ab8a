"""Plots as PNG files, drawn by matplotlib: for the README, for print and for readers without JavaScript."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, MaxNLocator

from pilot.reporting.plot import DIVERGING, SEQUENTIAL, Mark, Panel, Plot, cells_of, columns_of

MARKERS = "osD^XP*"
HATCHES = ("", "///", "xxx", "...")

plt.rcParams.update({"figure.dpi": 130, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def figure(plot: Plot) -> Figure:
    """All panels in one figure, `plot.across` of them in a row."""
    width = 9 if len(plot.panels) > 1 else 7
    result = plt.figure(figsize=(width, _total_height(plot, plot.across)), layout="constrained")
    _draw(plot, result, plot.across)
    return result


def side_by_side(plots: Sequence[Plot]) -> Figure:
    """Plots in one figure: the panels of heatmaps next to each other, others below each other."""
    across = [plot.across if plot.kind == "heatmap" else 1 for plot in plots]
    height = max(map(_total_height, plots, across))
    result = plt.figure(figsize=(6 * len(plots), height), layout="constrained")
    parts = result.subfigures(1, len(plots), squeeze=False)
    for part, plot, n in zip(parts.flat, plots, across, strict=True):
        _draw(plot, part, n)
    return result


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, and the figure closed; the same figure gives the same bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _draw(plot: Plot, figure: FigureBase, across: int) -> None:
    """Fill a figure, or a part of one, with the panels, so many in a row."""
    axes = figure.subplots(-(-len(plot.panels) // across), across, squeeze=False)
    used = axes.flat[: len(plot.panels)]
    for axis, (title, panel) in zip(used, plot.panels.items(), strict=True):
        axis.set_title(title, fontsize=9, loc="left")
        if plot.kind == "heatmap":
            image = _heatmap(plot, axis, panel)
        elif plot.kind == "bars":
            _bars(plot, axis, panel)
        else:
            _lines(plot, axis, panel)
    for axis in axes.flat[len(plot.panels) :]:
        axis.set_axis_off()
    handles, names = used[0].get_legend_handles_labels()
    if plot.kind == "heatmap":
        figure.colorbar(image, ax=axes, label=plot.value)
    elif len(handles) > 1:
        figure.legend(handles, names, frameon=False, loc="outside upper center", ncols=3 if len(handles) % 2 else 2)


def _total_height(plot: Plot, across: int) -> float:
    """Inches."""
    return -(-len(plot.panels) // across) * max(_height(plot, panel) for panel in plot.panels.values())


def _height(plot: Plot, panel: Panel) -> float:
    """Inches."""
    return {
        "heatmap": 0.9 + (0.4 if plot.is_small else 0.2) * len(panel),
        "bars": 0.9 + 0.17 * len(panel) * len(columns_of(panel)),
        "lines": 3,
    }[plot.kind]


def _heatmap(plot: Plot, axis: Axes, panel: Panel) -> AxesImage:
    columns = columns_of(panel)
    cells = cells_of(panel)
    grid = np.array([[np.nan if mark is None else mark.value for mark in row] for row in cells])
    colours = LinearSegmentedColormap.from_list("signed", DIVERGING if plot.signed else SEQUENTIAL)
    low = -plot.limit if plot.signed else 0
    image = axis.imshow(grid, cmap=colours, vmin=low, vmax=plot.limit, aspect="auto")
    if plot.is_small:
        for (row, column), value in np.ndenumerate(grid):
            if not np.isnan(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                colour = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else "black"
                text = f"{value:{'+' if plot.signed else ''}.{plot.decimals}f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(columns)), map(str, columns), fontsize=8)
    axis.set_yticks(range(len(panel)), list(panel), fontsize=8)
    if not plot.is_small and not any("\n" in str(column) for column in columns):
        axis.tick_params("x", rotation=90)
    axis.set(xlabel=plot.columns, ylabel=plot.rows)
    axis.spines[:].set_visible(False)
    return image


def _bars(plot: Plot, axis: Axes, panel: Panel) -> None:
    labels = columns_of(panel)
    thickness = 0.8 / len(panel)
    for i, series in enumerate(plot.series(panel)):
        place = [labels.index(label) - 0.4 + (i + 0.5) * thickness for label in series.marks]
        axis.barh(
            place,
            [mark.value for mark in series.marks.values()],
            thickness,
            xerr=_intervals(series.marks.values()),
            error_kw={"elinewidth": 0.8, "capsize": 1.5},
            label=series.name,
            color=series.colour,
            hatch=HATCHES[series.shape % len(HATCHES)],
            edgecolor="white",
            linewidth=0,
        )
    axis.set_yticks(range(len(labels)), map(str, labels), fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="#333333", linewidth=0.8)
    axis.set_xlabel(plot.value)


def _lines(plot: Plot, axis: Axes, panel: Panel) -> None:
    for name, marks, colour, shape, muted in plot.series(panel):
        axis.errorbar(
            list(marks),
            [mark.value for mark in marks.values()],
            yerr=_intervals(marks.values()),
            fmt=".-" if muted else f"{MARKERS[shape % len(MARKERS)]}-",
            markersize=2 if muted else 4,
            linewidth=0.6 if muted else 1.4,
            capsize=1.5,
            color=colour,
            zorder=1 if muted else 2,
            label="_" + name if muted else name,
        )
    if plot.log_columns:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    else:
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axis.axhline(0, color="#333333", linewidth=0.8)
    axis.set(xlabel=plot.columns, ylabel=plot.value)


def _intervals(marks: Iterable[Mark]) -> np.ndarray | None:
    """How far the intervals reach below and above the values (2, n), None where no mark has an interval."""
    margins = [mark.margins for mark in marks]
    return np.array([margin or (0.0, 0.0) for margin in margins]).T if any(margins) else None
