from pilot.reporting.plot import Mark, Plot
from pilot.reporting.plotly_charts import charts, colour_scale


def test_a_heatmap_is_centred_on_zero_and_shows_its_numbers():
    panels = {"flat": {"L0": {"H0": Mark(1), "H1": Mark(-3, -4, -2)}}, "paren": {"L0": {"H0": Mark(2)}}}
    drawn = charts(Plot("heatmap", panels, "layer", "head", "points", 1))
    assert list(drawn) == ["flat", "paren"]
    flat, paren = drawn.values()
    (heatmap,) = flat.data
    assert (heatmap.zmin, heatmap.zmax) == (-3, 3) == (paren.data[0].zmin, paren.data[0].zmax)
    assert [list(row) for row in heatmap.z] == [[1, -3]]
    assert heatmap.text[0][1] == "-3.0 [-4.0, -2.0]"
    assert heatmap.texttemplate == "%{z:+.1f}"
    assert heatmap.colorscale[5] == (0.5, "#f7f7f7")
    assert not heatmap.showscale  # the numbers are in the cells


def test_values_without_a_sign_start_at_zero():
    (chart,) = charts(Plot("heatmap", {"": {"L0": {"H0": Mark(4)}}}, "layer", "head", "%", signed=False)).values()
    assert (chart.data[0].zmin, chart.data[0].zmax) == (0, 4)


def test_bars_carry_the_distances_to_the_ends_of_their_intervals():
    panel = {"denoising": {"L0H0": Mark(0.5, 0.25, 1.0)}, "noising": {"L0H0": Mark(0.5)}}
    (chart,) = charts(Plot("bars", {"": panel}, "direction", "head", "value")).values()
    denoising, noising = chart.data
    assert (denoising.error_x.array, denoising.error_x.arrayminus) == ((0.5,), (0.25,))
    assert noising.error_x.array is None
    assert denoising.marker.color != noising.marker.color
    assert denoising.marker.pattern.shape != noising.marker.pattern.shape  # not by colour alone


def test_background_lines_are_not_in_the_legend():
    panel = {"L0H0": {1: Mark(0.1)}, "L0H1": {1: Mark(0.9)}}
    (chart,) = charts(Plot("lines", {"": panel}, "head", "epoch", "effect", muted=frozenset({"L0H0"}))).values()
    assert {line.name: line.showlegend for line in chart.data} == {"L0H0": False, "L0H1": True}


def test_references_are_in_the_legend():
    panel = {"gradient": {3: Mark(0.2)}, "exact": {18: Mark(0)}}
    plot = Plot("lines", {"": panel}, "method", "cost", "error", references=frozenset({"exact"}))
    assert all(line.showlegend for line in charts(plot)[""].data)


def test_columns_of_lines_may_be_logarithmic():
    panels = {"": {"gradient": {3: Mark(0.1), 12: Mark(0.05)}}}
    for log_columns, kind in ((True, "log"), (False, None)):
        (chart,) = charts(Plot("lines", panels, "method", "forwards", "error", log_columns=log_columns)).values()
        assert chart.layout.xaxis.type == kind


def test_nothing_can_be_dragged_so_that_a_finger_scrolls_the_page():
    (chart,) = charts(Plot("lines", {"": {"flat": {1: Mark(0.1)}}}, "kind", "epoch", "%")).values()
    assert chart.layout.dragmode is False
    assert chart.layout.xaxis.fixedrange
    assert chart.layout.yaxis.fixedrange


def test_a_symbol_stands_over_its_position():
    (chart,) = charts(Plot("heatmap", {"": {"L0H0": {"(\n4": Mark(1)}}}, "head", "position", "recovery")).values()
    assert chart.data[0].x == ("<b style='font-size:1.3em'>(</b><br>4",)


def test_a_colour_scale_is_even():
    assert colour_scale(("a", "b", "c")) == [(0, "a"), (0.5, "b"), (1, "c")]


def test_long_names_of_narrow_columns_stand_upright():
    def angle(columns):
        panel = {"L0": {column: Mark(1.0) for column in columns}}
        (chart,) = charts(Plot("heatmap", {"": panel}, "layer", "head", "value")).values()
        return chart.layout.xaxis.tickangle

    assert angle([f"L10H{i}" for i in range(9)]) == -90
    assert angle([f"H{i}" for i in range(9)]) is None
    assert angle([f"(long\n{i}" for i in range(9)]) is None  # a position has two lines
    assert angle(["L10H1", "L10H2"]) == 0  # wide columns
