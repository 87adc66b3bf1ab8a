from dataclasses import replace

import pytest

from pilot.reporting.findings.attribution import Miss, approximations, attribution, largest_misses
from pilot.reporting.findings.blindness import blindness


def found(measured) -> dict:
    return {finding.name: finding for finding in attribution(measured)}


def test_methods_are_marks_of_cost_and_error(measured):
    finding = found(measured)["attribution"]
    assert finding.plot.log_columns
    assert list(finding.plot.panels) == [
        f"{edit}, {direction}"
        for edit in ("parentheses moved", "operator changed")
        for direction in ("denoising", "noising")
    ]
    panel = finding.plot.panels["parentheses moved, denoising"]
    inputs = panel["integrated gradients, inputs"]
    assert list(inputs) == [4.0, 12.0]
    assert inputs[12.0].value == pytest.approx(1 / 12)
    assert inputs[12.0].note == "integrated gradients, inputs, 5 steps"
    assert panel["exact patching"][18.0].value == 0
    assert finding.plot.references == {"exact patching", "zero ablation", "mean ablation"}
    assert (
        "Where parentheses moved, the approximation closest to exact patching, among those that cost less, is by "
        "denoising integrated gradients, inputs, 5 steps (12 forwards, error 0.083); by noising"
    ) in finding.text
    assert finding.table.rows[1][:5] == [
        "parentheses moved", "denoising", "integrated gradients, inputs, 1 step", "4", "0.25 [0.20, 0.30]"
    ]  # fmt: skip


def test_what_was_missed_names_the_head(measured):
    finding = found(measured)["attribution_missed"]
    assert "misses by denoising L0H0, which recovers +0.08 and is given -0.22 and by noising L0H0" in finding.text
    assert finding.table.rows[0] == ["denoising", "gradient at the recipient", "L0H0", "+0.08", "-0.22"]
    assert len(finding.table.rows) == 2 * 4


def test_the_largest_miss_is_the_largest_in_size(measured):
    rows = [
        {"edit": "name", "direction": "denoising", "method": method, "head": head, "value": value, "error": error}
        for method, head, value, error in (
            ("relp", "L0H0", "0.5", "0.1"),
            ("relp", "L0H1", "0.1", "-0.3"),
            ("exact", "L0H0", "0.4", "0"),
        )
    ]
    assert largest_misses(rows, "name") == {"denoising": {"relp": Miss("L0H1", pytest.approx(0.4), 0.1)}}
    assert largest_misses(rows, "other") == {}


def test_one_edit_needs_no_name(measured):
    only = {"heads": {"regroup": measured.attribution["heads"]["regroup"]}}
    measured = replace(measured, attribution=measured.attribution | only)
    assert list(found(measured)["attribution"].plot.panels) == ["denoising", "noising"]


def test_methods_may_be_left_out(measured):
    rows = [row for row in measured.attributed_heads if row["method"] in ("ig_inputs_1", "exact")]
    _, missed, *_ = approximations(replace(measured, attributed_heads=rows), "regroup", "Here,", "none")
    assert "misses" not in missed.text
    assert missed.text.startswith("Here, the head")


def test_sets_and_their_choice(measured):
    finding = found(measured)["attribution_sets"]
    rows = {row[1]: row for row in finding.table.rows if row[0] == "noising"}
    assert rows["gradient at the recipient"][2:] == [
        "0.300 [0.250, 0.350]",
        "0.400 [0.350, 0.450]",
        "0.100 [0.050, 0.150]",
        "0.200 [0.150, 0.250]",
    ]
    assert rows["greedy, one head at a time"][2:] == ["", "", "0.100 [0.050, 0.150]", "0.200 [0.150, 0.250]"]
    assert "0.100 (best of all sets), 0.100 (greedy, one head at a time) and 0.100 (exact patching)" in finding.text


def test_shapley_values_by_the_number_of_sets(measured):
    panels = found(measured)["attribution_shapley"].plot.panels
    assert {sets: mark.value for sets, mark in panels["noising"]["KernelSHAP"].items()} == {17: 0.2, 65: 0.1}


def test_blindness_is_counted_where_exact_patching_sees_an_effect(measured):
    finding = blindness(measured)
    assert [row[:3] for row in finding.table.rows] == [
        ["one head", "denoising", "yes 10/10"],
        ["one head", "noising", "yes 10/10"],
        ["two heads, both needed (AND)", "denoising", "-, 2 false"],
        ["two heads, both needed (AND)", "noising", "no 0/20"],
    ]
    assert "gradient at the recipient (and by noising);" in finding.text


def test_what_is_missing_is_said(measured):
    nothing = replace(measured, attribution={}, attributed_heads=[])
    for finding in (*attribution(nothing), blindness(nothing)):
        assert finding.table is None
        assert "run dvc repro attribution" in finding.text
    without_sets = {key: value for key, value in measured.attribution.items() if key != "sets"}
    for name in ("attribution_sets", "attribution_shapley"):
        assert "exhaustive is off" in found(replace(measured, attribution=without_sets))[name].text
