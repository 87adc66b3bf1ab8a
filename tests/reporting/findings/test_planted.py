from dataclasses import replace

from support.report_cases import estimate

from pilot.reporting.findings.planted import planted


def found(measured) -> dict:
    return {finding.name: finding for finding in planted(measured)}


def test_circuits_count_the_heads_of_each_word(measured):
    finding = found(measured)["circuits"]
    assert "planted 50 times" in finding.text
    assert "single with 30 pairs (necessary: 2 missed, 0 false)" in finding.text
    assert "and with 430 pairs (sufficient: 0 missed, 1 false)" in finding.text
    assert finding.table.header[:5] == [
        "circuit",
        "pairs",
        "sufficient: right",
        "sufficient: missed",
        "sufficient: false",
    ]
    assert finding.table.rows[0] == ["single", "30", "50", "0", "0", "48", "2", "0", "0", "0", "0"]


def test_circuits_without_an_error_are_said_to_have_none(measured):
    for by_pairs in measured.planted["circuits"].values():
        for words in by_pairs.values():
            for counts in words.values():
                counts |= {"missed": 0, "false": 0}
    assert found(measured)["circuits"].text.endswith("Errors: none.")


def test_false_positives_are_held_against_what_is_allowed(measured):
    rates = {"sufficient": estimate(0.2), "necessary": estimate(0.05), "redundant": estimate(-0.01)}
    text = found(replace(measured, planted=measured.planted | {"false_positives": {"30": rates}}))[
        "false_positives"
    ].text
    assert "of 400 models without a circuit" in text
    assert "Above that: 30 / sufficient. Not clearly below it: 30 / necessary." in text


def test_coverage_is_held_against_its_nominal_value(measured):
    assert found(measured)["coverage"].text.endswith("Clearly different from 95%: none.")
    coverage = {"recovery": {"30": estimate(0.8), "430": estimate(0.95)}}
    text = found(replace(measured, planted=measured.planted | {"coverage": coverage}))["coverage"].text
    assert text.endswith("Clearly different from 95%: recovery / 30.")


def test_power_names_the_fewest_pairs_that_are_enough(measured):
    finding = found(measured)["power"]
    # Sensitivity is effect * pairs / 50, up to 90 %.
    assert "sufficient, effect 1.0: 40" in finding.text
    assert "sufficient, effect 0.5: more than measured" in finding.text
    assert list(finding.plot.panels) == ["sufficient", "necessary"]


def test_what_is_missing_is_said(measured):
    for finding in planted(replace(measured, planted={"placements": 50, "found": {}}, power=[])):
        assert finding.table is None
        assert "run dvc repro planted" in finding.text
