"""Plots as interactive charts: plotly figures, to be drawn by its script in the page."""

from __future__ import annotations

import plotly.graph_objects as go

from pilot.reporting.plot import COLOURS, DIVERGING, SEQUENTIAL, Mark, Panel, Plot, cells_of, columns_of

MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "circle")
_LABEL = 15  # pixels that a label of an axis, or a bar, takes


def charts(plot: Plot) -> list[go.Figure]:
    """One figure for each panel, as wide as the page lets it be."""
    draw = {"heatmap": _heatmap, "bars": _bars, "lines": _lines}[plot.kind]
    figures = []
    for title, panel in plot.panels.items():
        figure = draw(plot, panel)
        # Nothing can be dragged: on a phone a finger on a chart still scrolls the page.
        figure.update_xaxes(fixedrange=True, automargin=True).update_yaxes(fixedrange=True, automargin=True)
        figure.update_layout(
            template="none",
            title={
                "text": title,
                "font_size": 14,
                "x": 0,
                "xanchor": "left",
                "y": 1,
                "yanchor": "top",
                "yref": "container",
            },
            title_pad={"t": 4, "l": 4},
            margin={"l": 10, "r": 10, "t": 30, "b": 10},
            font={"family": "system-ui, sans-serif", "size": 12},
            dragmode=False,
            legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        )
        if plot.kind != "heatmap" and len(panel) > 1:
            figure.update_layout(margin_t=60 if len(panel) < 3 else 85)  # a legend of one line or of several
        figures.append(figure)
    return figures


def colour_scale(colours: tuple[str, ...]) -> list[tuple[float, str]]:
    """The colours, evenly spaced, as plotly wants them."""
    return [(i / (len(colours) - 1), colour) for i, colour in enumerate(colours)]


def _heatmap(plot: Plot, panel: Panel) -> go.Figure:
    columns = columns_of(panel)
    cells = cells_of(panel)
    heatmap = go.Heatmap(
        x=[_tick(column) for column in columns],
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
    figure = go.Figure(heatmap)
    figure.update_xaxes(type="category", title=plot.columns, showgrid=False, tickangle=0 if plot.is_small else None)
    figure.update_yaxes(type="category", title=plot.rows, showgrid=False, autorange="reversed", title_standoff=8)
    return figure.update_layout(height=130 + (40 if plot.is_small else 22) * len(panel))


def _bars(plot: Plot, panel: Panel) -> go.Figure:
    figure = go.Figure()
    for i, row, marks in plot.series(panel):
        figure.add_bar(
            name=row,
            orientation="h",
            y=list(marks),
            x=[mark.value for mark in marks.values()],
            error_x=_interval(list(marks.values())),
            marker={"color": COLOURS[i], "pattern": {"shape": ("", "/", "x", ".")[i]}},
            **_hover(plot, row, marks.values(), "%{y}"),
        )
    figure.update_xaxes(title=plot.value, zeroline=True)
    figure.update_yaxes(type="category", autorange="reversed")
    n_bars = len(panel) * len(columns_of(panel))
    return figure.update_layout(height=120 + _LABEL * max(n_bars, 2), barmode="group", bargap=0.25)


def _lines(plot: Plot, panel: Panel) -> go.Figure:
    figure = go.Figure()
    for i, row, marks in plot.series(panel):
        colour = COLOURS[i]
        figure.add_scatter(
            name=row,
            mode="lines+markers",
            x=list(marks),
            y=[mark.value for mark in marks.values()],
            error_y=_interval(list(marks.values())),
            line={"color": colour, "width": 1 if i < 0 else 2},
            marker={"color": colour, "symbol": MARKERS[i], "size": 4 if i < 0 else 7},
            showlegend=i >= 0,
            **_hover(plot, row, marks.values(), f"{plot.columns} %{{x}}"),
        )
    figure.update_xaxes(title=plot.columns)
    figure.update_yaxes(title=plot.value, rangemode="tozero")
    return figure.update_layout(height=340)


def _hover(plot: Plot, row: str, marks, where: str) -> dict:
    return {
        "customdata": [plot.text(mark) for mark in marks],
        "hovertemplate": f"{row}, {where}<br>{plot.value}<br><b>%{{customdata}}</b><extra></extra>",
    }


def _interval(marks: list[Mark]) -> dict | None:
    if all(mark.low is None for mark in marks):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [mark.high - mark.value for mark in marks],
        "arrayminus": [mark.value - mark.low for mark in marks],
        "color": "#333333",
        "thickness": 1,
        "width": 3,
    }


def _tick(label: str | float) -> str:
    """The label with its first line in large type if it has two: a symbol over its position."""
    first, _, second = str(label).partition("\n")
    return f"<b style='font-size:1.3em'>{first}</b><br>{second}" if second else first
