import numpy as np
import pytest
from matplotlib import pyplot as plt

from pilot.reporting.matplotlib_figures import figure, png, side_by_side
from pilot.reporting.plot import Mark, Plot

HEADS = {"L0": {"H0": Mark(30.0), "H1": Mark(-5.0)}, "L1": {"H0": Mark(1.0), "H1": Mark(0.0)}}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_a_heatmap_shows_the_numbers_centred_on_zero():
    drawn = figure(Plot("heatmap", {"flat": HEADS, "paren": HEADS}, "layer", "head", "points", 1))
    panels = [axis for axis in drawn.axes if axis.get_title(loc="left")]
    assert [axis.get_title(loc="left") for axis in panels] == ["flat", "paren"]
    assert [text.get_text() for text in panels[0].texts] == ["+30.0", "-5.0", "+1.0", "+0.0"]
    assert panels[0].images[0].get_clim() == (-30, 30)


def test_a_missing_value_leaves_a_gap_not_an_error():
    panels = {"right": HEADS, "control": {"L0": {"H0": Mark(1)}, "L1": {"H1": Mark(2)}}}
    drawn = figure(Plot("heatmap", panels, "layer", "head", "%"))
    np.testing.assert_array_equal(drawn.axes[1].images[0].get_array().mask, [[False, True], [True, False]])


def test_bars_stand_side_by_side_with_their_intervals():
    panel = {"denoising": {"a": Mark(1, 0, 3), "b": Mark(2, 1, 3)}, "noising": {"b": Mark(3, 2, 4)}}
    axis = figure(Plot("bars", {"": panel}, "direction", "head", "value")).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert [bar.get_width() for bar in axis.patches] == [1, 2, 3]
    assert [round(bar.get_y() + bar.get_height() / 2, 6) for bar in axis.patches] == [-0.2, 0.8, 1.2]
    ends = axis.containers[1].errorbar.lines[2][0].get_segments()[0][:, 0]
    assert ends.tolist() == [0, 3]


def test_lines_are_drawn_over_their_background():
    panel = {"L0H0": {1: Mark(0.1), 2: Mark(0.2)}, "L0H1": {1: Mark(0.5), 2: Mark(0.9)}}
    axis = figure(Plot("lines", {"": panel}, "head", "epoch", "effect", muted=frozenset({"L0H1"}))).axes[0]
    background, line = axis.lines[:2]
    assert background.get_ydata().tolist() == [0.5, 0.9]
    assert line.get_zorder() > background.get_zorder()
    assert axis.get_legend_handles_labels()[1] == ["L0H0"]


def test_references_are_in_the_legend():
    panel = {"gradient": {3: Mark(0.2)}, "exact": {18: Mark(0)}}
    axis = figure(Plot("lines", {"": panel}, "method", "cost", "error", references=frozenset({"exact"}))).axes[0]
    assert set(axis.get_legend_handles_labels()[1]) == {"gradient", "exact"}


def test_columns_of_lines_may_be_logarithmic():
    panels = {"": {"gradient": {3: Mark(0.1), 12: Mark(0.05)}}}
    for log_columns, scale in ((True, "log"), (False, "linear")):
        drawn = figure(Plot("lines", panels, "method", "forwards", "error", log_columns=log_columns))
        assert drawn.axes[0].get_xscale() == scale
        plt.close(drawn)


def test_the_same_numbers_give_the_same_file():
    plot = Plot("heatmap", {"flat": HEADS}, "layer", "head", "points")
    assert png(figure(plot)) == png(figure(plot))
    assert plt.get_fignums() == []


def test_plots_side_by_side_share_a_figure():
    heatmap = Plot("heatmap", {"denoising": HEADS, "noising": HEADS}, "layer", "head", "recovery")
    lines = {"best": {1: Mark(0.5), 2: Mark(1.0)}, "average": {1: Mark(0.1), 2: Mark(0.2)}}
    drawn = side_by_side([heatmap, Plot("lines", {"denoising": lines, "noising": lines}, "set", "heads", "recovery")])
    drawn.canvas.draw()
    left, right = drawn.subfigs
    columns = [
        {round(axis.get_position().x0, 2) for axis in part.axes if axis.get_title(loc="left")} for part in (left, right)
    ]
    assert [len(places) for places in columns] == [2, 1]  # heatmaps next to each other, lines below each other
