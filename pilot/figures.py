"""The pictures, drawn from the numbers that the stages wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from pilot.interventions import parse_heads

# Okabe & Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"

plt.rcParams.update({"figure.dpi": 150, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def training_figure(log: Mapping[str, Sequence[float]]) -> Figure:
    """Validation accuracy and loss by epoch; `log` holds the columns of training.csv."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(log["epoch"], np.multiply(log["val_flat"], 100), "o-", ms=3, color=BLUE, label="flat")
    left.plot(log["epoch"], np.multiply(log["val_paren"], 100), "s-", ms=3, color=ORANGE, label="parenthesised")
    left.set(xlabel="epoch", ylabel="exact match on validation (%)", ylim=(0, 101))
    left.legend(frameon=False, loc="lower right")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    right.plot(log["epoch"], log["loss"], "o-", ms=3, color=GREY)
    right.set(xlabel="epoch", ylabel="loss on answer tokens", yscale="log")
    return figure


def ablation_figure(impact: Mapping[str, Mapping[str, Mapping]]) -> Figure:
    """Layer × head heatmaps of impact: a row for each ablation, columns flat, parenthesised and their difference."""
    columns = {"flat": "flat", "paren": "parenthesised", "paren_minus_flat": "parenthesised - flat"}
    figure, axes = plt.subplots(len(impact), 3, figsize=(8.5, 8), layout="constrained")
    for row, (method, heads) in zip(axes, impact.items(), strict=True):
        grids = [head_grid({name: by[column]["value"] for name, by in heads.items()}) for column in columns]
        limit = max(0.01, *(np.abs(grid).max() for grid in grids))
        for axis, grid, title in zip(row, grids, columns.values(), strict=True):
            image = _heatmap(axis, 100 * grid, f"{method}: {title}", "RdBu_r", -100 * limit, 100 * limit)
        figure.colorbar(image, ax=row, label="exact match lost (points)")
    return figure


def repair_by_head_figure(repair: Mapping[str, Mapping]) -> Figure:
    """Layer × head heatmaps of the share of wrong answers repaired, from right donors and from wrong ones."""
    single = {name: rates for name, rates in repair.items() if name.startswith("L")}
    titles = {"right_to_wrong": "right → wrong", "wrong_to_wrong": "wrong → wrong (control)"}
    grids = [
        head_grid({name: rates[kind]["fixed"]["value"] if kind in rates else np.nan for name, rates in single.items()})
        for kind in titles
    ]
    limit = 100 * max(0.01, *(np.nanmax(grid, initial=0) for grid in grids))
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    for axis, grid, title in zip(axes, grids, titles.values(), strict=True):
        image = _heatmap(axis, 100 * grid, title, "cividis", 0, limit)
    figure.colorbar(image, ax=axes, label="wrong answers repaired (%)")
    return figure


def repair_figure(repair: Mapping[str, Mapping], names: Mapping[str, str]) -> Figure:
    """Repair rates with intervals for some targets: `names` maps their keys to what the picture calls them."""
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(names) + 1.2), layout="constrained")
    y = np.arange(len(names))
    styles = (
        ("right_to_wrong", "right → wrong", "o", BLUE),
        ("wrong_to_wrong", "wrong → wrong (control)", "s", ORANGE),
    )
    for offset, (kind, label, marker, colour) in zip((-0.15, 0.15), styles, strict=True):
        rows = [(i, repair[key][kind]["fixed"]) for i, key in enumerate(names) if kind in repair[key]]
        value, low, high = (np.array([100 * rate[part] for _, rate in rows]) for part in ("value", "low", "high"))
        where = np.array([i for i, _ in rows]) + offset
        errors = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
        axis.errorbar(value, where, xerr=errors, fmt=marker, color=colour, ms=4, capsize=2, label=label)
    axis.set_yticks(y, list(names.values()))
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("wrong answers repaired (%), 95 % interval")
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    return figure


def head_grid(values: Mapping[str, float]) -> np.ndarray:
    """Values by head name (`L2H1`) as an array (layers, heads)."""
    places = {name: (patch.layer, patch.head) for name in values for patch in parse_heads(name)}
    grid = np.full(np.max(list(places.values()), axis=0) + 1, np.nan)
    for name, place in places.items():
        grid[place] = values[name]
    return grid


def _heatmap(axis, grid: np.ndarray, title: str, colours: str, low: float, high: float):
    image = axis.imshow(grid, cmap=colours, vmin=low, vmax=high)
    for (layer, head), value in np.ndenumerate(grid):
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axis.text(head, layer, f"{value:.1f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axis.set(title=title, xlabel="head", ylabel="layer", xticks=range(grid.shape[1]), yticks=range(grid.shape[0]))
    axis.spines[:].set_visible(False)
    return image
