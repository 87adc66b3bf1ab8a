from pilot.reporting.plot import COLOURS, MUTED_COLOUR, REFERENCE_COLOUR, Mark, Plot, Table, cells_of, columns_of


def heatmap(**changes) -> Plot:
    panels = {
        "flat": {"L0": {"H0": Mark(1.0, 0.5, 1.5), "H1": Mark(-3.0)}, "L1": {"H0": Mark(2.0)}},
        "paren": {"L0": {"H0": Mark(0.25)}},
    }
    return Plot(
        **{"kind": "heatmap", "panels": panels, "rows": "layer", "columns": "head", "value": "points"} | changes
    )


def test_the_table_of_a_heatmap_has_a_row_for_each_cell_and_a_column_for_each_panel():
    assert heatmap(decimals=1).table() == Table(
        ["layer", "head", "flat", "paren"],
        [["L0", "H0", "+1.0 [+0.5, +1.5]", "+0.2"], ["L0", "H1", "-3.0", ""], ["L1", "H0", "+2.0", ""]],
    )


def test_the_table_of_lines_has_a_row_for_each_place_and_a_column_for_each_line():
    panels = {"denoising": {"best": {1: Mark(0.5, note="L0H1"), 2: Mark(1)}}, "noising": {"best": {2: Mark(1)}}}
    table = Plot("lines", panels, "set", "heads", "recovery", signed=False).table()
    assert table.header == ["heads", "denoising: best", "noising: best"]
    assert table.rows == [["1", "0.50 L0H1", ""], ["2", "1.00", "1.00"]]


def test_colours_end_at_the_largest_value_of_either_sign():
    assert heatmap().limit == 3
    assert heatmap(panels={"": {"L0": {"H0": Mark(0.0)}}}).limit == 1  # a scale from zero to zero is none


def test_labels_of_two_lines_are_one_line_in_tables():
    plot = heatmap(panels={"": {"L0H0": {"(\n4": Mark(1.0)}}})
    assert plot.table().rows == [["L0H0", "( 4", "+1.00"]]


def test_a_heatmap_has_room_for_numbers_up_to_six_columns():
    row = {f"H{i}": Mark(0.0) for i in range(6)}
    assert heatmap(panels={"": {"L0": row}}).is_small
    assert not heatmap(panels={"": {"L0": row | {"H6": Mark(0.0)}}}).is_small
    assert not heatmap(kind="bars").is_small


def test_what_is_missing_in_a_row_is_none():
    flat = heatmap().panels["flat"]
    assert columns_of(flat) == ["H0", "H1"]
    assert cells_of(flat) == [[Mark(1.0, 0.5, 1.5), Mark(-3.0)], [Mark(2.0), None]]


def test_background_comes_first_and_takes_no_colour():
    rows = {f"L0H{i}": {1: Mark(i)} for i in range(9)}
    series = list(Plot("lines", {"": rows}, "head", "epoch", "effect", muted=frozenset({"L0H1"})).series(rows))
    assert [(row.name, row.colour) for row in series[:3]] == [
        ("L0H1", MUTED_COLOUR), ("L0H0", COLOURS[0]), ("L0H2", COLOURS[1])
    ]  # fmt: skip
    assert [row.muted for row in series] == [True, *[False] * 8]
    assert (series[-1].name, series[-1].colour) == ("L0H8", COLOURS[0])  # colours start again after the seventh


def test_references_are_grey_and_of_different_shapes():
    rows = {name: {1: Mark(0.5)} for name in ("gradient", "ablation", "exact")}
    plot = Plot("lines", {"": rows}, "method", "cost", "error", references=frozenset({"ablation", "exact"}))
    drawn = {row.name: (row.colour, row.shape, row.muted) for row in plot.series(rows)}
    assert drawn == {
        "ablation": (REFERENCE_COLOUR, 0, False),
        "exact": (REFERENCE_COLOUR, 1, False),
        "gradient": (COLOURS[0], 0, False),
    }


def test_a_mark_is_written_with_its_interval_and_note():
    assert Mark(0.5).text(".1f") == "0.5"
    assert Mark(0.5, 0.25, 1.0, "L0H1").text("+.2f") == "+0.50 [+0.25, +1.00] L0H1"


def test_margins_reach_from_the_value_to_the_ends_of_the_interval():
    assert Mark(0.5).margins is None
    assert Mark(0.5, 0.25, 1.5).margins == (0.25, 1.0)
    assert Mark(0.5, 0.75, 1.5).margins == (0.0, 1.0)  # a bootstrap interval may miss its value


def test_three_panels_stand_side_by_side_and_two_otherwise():
    panel = heatmap().panels["flat"]
    across = [heatmap(panels={str(i): panel for i in range(n)}).across for n in (1, 2, 3, 4, 6)]
    assert across == [1, 2, 3, 2, 3]
