from dataclasses import replace

from support.report_cases import estimate

from pilot.reporting.findings.planted import planted


def found(measured) -> dict:
    return {finding.name: finding for finding in planted(measured)}


def test_circuits_count_the_heads_of_each_word(measured):
    finding = found(measured)["circuits"]
    assert "planted 50 times" in finding.text
    # By size: 150 earned words in "single", 2 of them missed; 100 in "and", and one false.
    assert "With 30 pairs 248 of 250 earned words are given, and 1 falsely. With 430 pairs 248 of" in finding.text
    assert finding.table.header == ["circuit", "pairs", "sufficient", "necessary", "redundant", "position", "stability"]
    assert finding.table.rows[0] == ["one head", "30", "50 / 0 / 0", "48 / 2 / 0", "- / - / 0", "50 / 0 / 0", "90%"]
    assert finding.table.rows[3][2] == "- / - / 1"
    assert finding.table.rows[3][-1] == ""


def test_false_positives_are_held_against_what_is_allowed(measured):
    rates = {"sufficient": estimate(0.2), "necessary": estimate(0.05), "redundant": estimate(-0.01)}
    scores = measured.planted | {"false_positives": {"damage": {"30": rates}}}
    text = found(replace(measured, planted=scores))["false_positives"].text
    assert "In 400 such circuits" in text
    assert "Clearly more often: heads that only damage / 30 / sufficient. Possibly" in text
    assert text.endswith("reaches higher: heads that only damage / 30 / necessary.")


def test_coverage_is_held_against_its_nominal_value(measured):
    assert found(measured)["coverage"].text.endswith("Clearly different from 95%: none.")
    coverage = {"recovery": {"30": estimate(0.8), "430": estimate(0.95)}}
    text = found(replace(measured, planted=measured.planted | {"coverage": coverage}))["coverage"].text
    assert text.endswith("Clearly different from 95%: recovery / 30.")


def test_power_names_the_fewest_pairs_that_are_enough(measured):
    finding = found(measured)["power"]
    assert "sufficient: not reached for 0.5 and 40 for 1.0; necessary:" in finding.text
    assert list(finding.plot.panels) == ["sufficient", "necessary"]
    assert list(finding.plot.panels["necessary"]) == ["0.5", "1.0"]


def test_what_is_missing_is_said(measured):
    for finding in planted(replace(measured, planted={"placements": 50, "found": {}}, power=[])):
        assert finding.table is None
        assert "run dvc repro planted" in finding.text
