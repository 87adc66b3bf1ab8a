from dataclasses import replace

import pytest
from support.report_cases import estimate

from pilot.reporting.findings.patching import head_positions, recovery, sets, verdict


def test_the_leading_heads_are_named_for_each_edit(measured):
    text = recovery(measured).text
    assert "by noising L0H1 (parentheses moved, 0.42), L0H1 (operator changed, 0.42)" in text
    assert "430 (parentheses moved), 430 (operator changed) and 430 (operand changed)." in text


def test_an_edit_without_usable_pairs_is_left_out(measured):
    del measured.counterfactual["effects"]["operand"]
    finding = recovery(measured)
    assert len(finding.plot.panels) == 4
    assert "operand changed)" not in finding.text


@pytest.mark.parametrize(
    ("control", "compared"),
    [(0.0, "above the 0.00"), (0.8, "not clearly different from the 0.80"), (1.0, "below the 1.00")],
)
def test_sets_of_heads_are_judged_against_an_unrelated_pair(measured, control, compared):
    effects = measured.counterfactual["effects"]["regroup"]["denoising"]
    effects["top_k"] = effects["top_k"] | {"wrong_donor": estimate(control)}
    assert f"By denoising the selected heads together recover 0.85 [0.80, 0.90], {compared}" in sets(measured).text


def test_pairs_left_out_of_the_control_are_counted(measured):
    assert sets(measured).text.endswith("for want of an unrelated pair: 5 by denoising and 5 by noising.")
    measured.counterfactual["pairs"]["regroup"]["with_wrong_donor"] = {"denoising": 430, "noising": 430}
    assert sets(measured).text.endswith("whatever they carry.")


def test_without_unrelated_pairs_there_is_no_comparison(measured):
    del measured.counterfactual["effects"]["regroup"]["denoising"]["top_k"]["wrong_donor"]
    assert "By denoising the selected heads together recover 0.85 [0.80, 0.90]; 42.4%" in sets(measured).text


def test_the_verdict_names_the_heads_of_each_word(measured):
    finding = verdict(measured)
    assert "Sufficient: L0H1 and L1H1; necessary: L0H1; redundant: none." in finding.text
    assert finding.table.rows[1][:5] == ["L0H1", "yes", "yes", "-", "0.42 [0.37, 0.47]"]


def test_without_all_sets_of_heads_no_head_is_called_redundant_or_not(measured):
    for words in measured.counterfactual["verdict"].values():
        del words["redundant"]
    finding = verdict(measured)
    assert "redundant" not in finding.text
    assert "redundant" not in finding.table.header


def test_positions_stand_under_their_symbols(measured):
    finding = head_positions(measured)
    assert list(finding.plot.panels["denoising"]["L0H0"])[:3] == ["^\n0", "(\n1", "n\n2"]
    assert "by denoising L0H1 at position 5, ')' (0.42)" in finding.text


@pytest.mark.parametrize("finding", [recovery, sets, verdict, head_positions])
def test_what_is_missing_is_said(measured, finding):
    lacking = finding(replace(measured, counterfactual={}, head_positions=[]))
    assert lacking.table is None
    assert "is missing: run dvc repro counterfactual" in lacking.text
