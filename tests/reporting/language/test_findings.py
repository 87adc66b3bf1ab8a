from dataclasses import replace

import pytest
from support.language_cases import DIRECTIONS

from pilot.reporting.language import findings


def test_accuracy_says_how_many_pairs_were_left_out_and_why(results):
    finding = findings.accuracy(results)
    assert "96.0% of the clean prompts right and 94.0% of the corrupt ones" in finding.text
    assert "11 (unequal lengths) and 1 (answers do not part)" in finding.text
    assert finding.table.rows == [["select", "100", "92", "90"], ["confirm", "100", "90", "88"]]


def test_every_head_stands_at_its_layer(results):
    finding = findings.recovery(results)
    assert list(finding.plot.panels) == list(DIRECTIONS)
    assert finding.plot.panels["denoising"]["L2"]["H2"].value == pytest.approx(0.4)
    assert "by denoising L2H2 (+0.40 [+0.36, +0.44]), least L1H1 (-0.20 [-0.24, -0.16])" in finding.text


def test_edits_beyond_the_main_one_have_panels_of_their_own(results):
    effects = results.counterfactual["effects"]
    effects["other_edit"] = effects["name"]
    assert list(findings.recovery(results).plot.panels)[2:] == ["denoising, other edit", "noising, other edit"]


def test_players_stand_by_rank_alone_and_with_their_shapley_values(results):
    finding = findings.players(results)
    panel = finding.plot.panels["noising"]
    assert list(panel["alone"]) == ["L2H2", "L2H0", "L1H1"]
    assert panel["Shapley value"]["L2H0"].value == pytest.approx(0.33)  # half of what the pair adds together
    assert "by denoising L2H2;" in finding.text  # 0.45 of 0.584
    del results.counterfactual["shapley"]
    assert list(findings.players(results).plot.panels["noising"]) == ["alone"]


def test_players_that_were_searched_for_come_with_what_that_means(results):
    assert "searched for" not in findings.players(results).text
    rows = {"L0H0": {"value": 0.01, "low": 0.0, "high": 0.02}}
    results.selection["search"] = {
        "min_recovery": 0.05,
        "miss_rate": 0.01,
        "forwards": 100,
        "share": 0.31,
        "estimated": dict.fromkeys(DIRECTIONS, rows),
    }
    text = findings.players(results).text
    assert "1 other heads were not patched on all select pairs" in text
    assert "took 31% of the forwards" in text
    assert "more than 0.05 in either direction is missed with a probability of at most 0.01" in text


def test_no_players_make_up_half_of_nothing(null_results):
    assert "by denoising none, since the sum is not above zero" in findings.players(null_results).text


def test_verdicts_are_of_players_and_of_others_that_earned_one(results):
    results.counterfactual["verdict"]["L0H1"]["sufficient"] = 1
    finding = findings.verdict(results)
    assert [row[:2] for row in finding.table.rows] == [
        ["L2H2", "sufficient and necessary"],
        ["L2H0", "sufficient"],
        ["L1H1", "neither"],
        ["L0H1", "sufficient"],
    ]
    assert "Sufficient: L0H1, L2H0 and L2H2. Necessary: L2H2. Redundant: no head." in finding.text


def test_controls_stand_beside_the_players(results):
    rows = findings.controls(results).table.rows
    assert rows[0][:3] == ["denoising", "all players together", "+0.58 [+0.54, +0.62]"]
    assert rows[0][3:] == ["+0.00 [-0.04, +0.04]", "29% [25%, 33%]"]
    assert rows[1][1:4] == ["as many heads drawn at random", "+0.02 [-0.02, +0.06]", ""]


def test_sets_are_compared_with_heads_ranked_one_at_a_time(results):
    finding = findings.best_sets(results)
    panel = finding.plot.panels["denoising"]
    assert list(panel) == [
        "best set",
        "heads of largest effect alone",
        "their effects alone, added up",
        "average of all sets",
    ]
    assert panel["best set"][2].note == "L2H2+L2H0"
    assert panel["best set"][2].value == pytest.approx(0.78)
    assert panel["their effects alone, added up"][2].value < panel["heads of largest effect alone"][2].value
    assert "by denoising 2 (L2H2+L2H0, 0.78)" in finding.text


def test_positions_are_rows_so_that_tokens_read_as_text(results):
    panel = findings.head_positions(results).plot.panels["denoising"]
    assert list(panel)[:4] == ["When (0)", "[Mary] (1)", "and (2)", "[John] (3)"]
    assert list(panel["When (0)"]) == ["L1H1", "L2H0", "L2H2"]
    assert panel["[John] (3)"]["L2H2"].value == pytest.approx(0.4)
    assert "by denoising L2H2 at '[John]' (3), 0.40" in findings.head_positions(results).text


def test_approximations_are_held_against_exact_patching(results):
    methods, missed, *_ = findings.attribution(results)
    assert list(methods.plot.panels) == list(DIRECTIONS)
    assert "On 128 select pairs, the approximation closest" in methods.text
    assert "by denoising L0H0, which recovers -0.00 and is given -0.30" in missed.text


def test_a_run_of_patch_heads_says_that_it_compared_no_approximations(results):
    for finding in findings.attribution(replace(results, attribution={}, attributed_heads=[])):
        assert finding.text.startswith("Approximations were not compared in this run")
        assert finding.table is None


def test_what_was_not_measured_is_said(results):
    lacking = replace(results, best_sets=[], head_positions=[])
    assert findings.best_sets(lacking).table is None
    assert "counterfactual.exhaustive is off" in findings.best_sets(lacking).text
    assert "not patched position by position" in findings.head_positions(lacking).text


def test_all_findings_have_names_of_their_own(results):
    names = [finding.name for finding in findings.findings(results)]
    assert names[:5] == ["accuracy", "recovery", "players", "verdict", "controls"]
    assert names[5:8] == ["best_sets", "interactions", "head_positions"]
    assert names[8:] == ["attribution", "attribution_missed", "attribution_sets", "attribution_shapley"]
