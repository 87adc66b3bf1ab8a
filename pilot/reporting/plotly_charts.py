"""Plots as interactive charts for the page: plotly's figures, which its script draws."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from pilot.reporting.plot import DIVERGING, SEQUENTIAL, Label, Mark, Panel, Plot, Row, cells_of, columns_of

MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
HATCHES = ("", "/", "x", ".")
BAR_HEIGHT = 15  # pixels


def charts(plot: Plot) -> dict[str, go.Figure]:
    """A figure for each panel, by title, which the page sets over it; it is as wide as the page lets it be."""
    draw = {"heatmap": _heatmap, "bars": _bars, "lines": _lines}[plot.kind]
    figures = {title: draw(plot, panel) for title, panel in plot.panels.items()}
    for figure in figures.values():
        # Nothing can be dragged: on a phone a finger on a chart still scrolls the page.
        figure.update_xaxes(fixedrange=True, automargin=True).update_yaxes(fixedrange=True, automargin=True)
        figure.update_layout(
            template="none",
            margin={"l": 10, "r": 10, "t": 10, "b": 10},
            font={"family": "system-ui, sans-serif", "size": 12},
            dragmode=False,
            legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        )
    return figures


def colour_scale(colours: tuple[str, ...]) -> list[tuple[float, str]]:
    """The colours, evenly spaced, as plotly wants them."""
    return [(i / (len(colours) - 1), colour) for i, colour in enumerate(colours)]


def _heatmap(plot: Plot, panel: Panel) -> go.Figure:
    cells = cells_of(panel)
    heatmap = go.Heatmap(
        x=[_tick(column) for column in columns_of(panel)],
        y=list(panel),
        z=[[mark and mark.value for mark in row] for row in cells],
        text=[[mark and plot.text(mark) for mark in row] for row in cells],
        hovertemplate=f"{plot.rows} %{{y}}, {plot.columns} %{{x}}<br>{plot.value}<br><b>%{{text}}</b><extra></extra>",
        hoverongaps=False,
        zmin=-plot.limit if plot.signed else 0,
        zmax=plot.limit,
        colorscale=colour_scale(DIVERGING if plot.signed else SEQUENTIAL),
        colorbar={"title": {"text": plot.value, "side": "right"}, "thickness": 10, "outlinewidth": 0},
        xgap=1,
        ygap=1,
    )
    if plot.is_small:
        heatmap.texttemplate = f"%{{z:{'+' if plot.signed else ''}.{plot.decimals}f}}"
        heatmap.showscale = False  # the cells say their values
    figure = go.Figure(heatmap)
    figure.update_xaxes(type="category", title=plot.columns, showgrid=False, tickangle=_tick_angle(plot, panel))
    figure.update_yaxes(type="category", title=plot.rows, showgrid=False, autorange="reversed", title_standoff=8)
    return figure.update_layout(height=100 + (40 if plot.is_small else 22) * len(panel))


def _bars(plot: Plot, panel: Panel) -> go.Figure:
    figure = go.Figure()
    for name, marks, colour, shape, _ in plot.series(panel):
        hatch = HATCHES[shape % len(HATCHES)]
        figure.add_bar(
            name=name,
            orientation="h",
            y=list(marks),
            x=[mark.value for mark in marks.values()],
            error_x=_intervals(marks.values()),
            marker={"color": colour, "pattern": {"shape": hatch, "fillmode": "overlay", "fgcolor": "white"}},
            **_hover(plot, name, marks, "%{y}"),
        )
    figure.update_xaxes(title=plot.value, zeroline=True)
    figure.update_yaxes(type="category", autorange="reversed", ticksuffix=" ")
    n_bars = len(panel) * len(columns_of(panel))
    return figure.update_layout(height=120 + BAR_HEIGHT * max(n_bars, 2), barmode="group", bargap=0.25)


def _lines(plot: Plot, panel: Panel) -> go.Figure:
    figure = go.Figure()
    for name, marks, colour, shape, muted in plot.series(panel):
        symbol = "circle" if muted else MARKERS[shape % len(MARKERS)]
        figure.add_scatter(
            name=name,
            mode="lines+markers",
            x=list(marks),
            y=[mark.value for mark in marks.values()],
            error_y=_intervals(marks.values()),
            line={"color": colour, "width": 1 if muted else 2},
            marker={"color": colour, "symbol": symbol, "size": 4 if muted else 7},
            showlegend=not muted,
            **_hover(plot, name, marks, f"{plot.columns} %{{x}}"),
        )
    figure.update_xaxes(title=plot.columns, type="log" if plot.log_columns else None)
    figure.update_yaxes(title=plot.value, rangemode="tozero")
    return figure.update_layout(height=340)


def _hover(plot: Plot, name: str, row: Row, where: str) -> dict[str, Any]:
    return {
        "customdata": [plot.text(mark) for mark in row.values()],
        "hovertemplate": f"{name}, {where}<br>{plot.value}<br><b>%{{customdata}}</b><extra></extra>",
    }


def _intervals(marks: Iterable[Mark]) -> dict[str, Any] | None:
    """Error bars, None where no mark has an interval."""
    margins = [mark.margins for mark in marks]
    if not any(margins):
        return None
    below, above = zip(*(margin or (0.0, 0.0) for margin in margins), strict=True)
    style = {"color": "#333333", "thickness": 1, "width": 3}
    return {"type": "data", "symmetric": False, "array": list(above), "arrayminus": list(below), **style}


def _tick_angle(plot: Plot, panel: Panel) -> int | None:
    """Upright where columns are narrow and have long names, else what plotly finds room for."""
    if plot.is_small:
        return 0
    upright = any(len(str(column)) > 3 and "\n" not in str(column) for column in columns_of(panel))
    return -90 if upright else None


def _tick(label: Label) -> str:
    """The label; if it has two lines, a symbol over its position, the first one is large."""
    first, _, second = str(label).partition("\n")
    return f"<b style='font-size:1.3em'>{first}</b><br>{second}" if second else first
