import pytest

from pilot.reporting.findings import findings
from pilot.reporting.findings.finding import by_layer, estimate, listed, mark, set_name
from pilot.reporting.plot import Mark


def test_heads_stand_by_layer():
    marks = {"L0H0": Mark(1), "L1H2": Mark(6), "L0H1": Mark(2)}
    assert by_layer(marks) == {"L0": {"H0": Mark(1), "H1": Mark(2)}, "L1": {"H2": Mark(6)}}


def test_a_value_with_its_interval_is_a_mark_in_any_unit_and_text_in_any_format():
    entry = {"value": 0.5, "low": 0.25, "high": 1.0}
    assert mark(entry, 100) == Mark(50, 25, 100)
    assert f"{estimate(entry):.0%}" == "50% [25%, 100%]"


def test_words_are_listed_as_in_a_sentence():
    assert [listed("abc"), listed("ab"), listed("a"), listed("")] == ["a, b and c", "a and b", "a", "none"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("top_k", "the 2 selected heads"),
        ("top_k@0:6", "the 2 selected, positions 0:6"),
        ("random_k", "2 heads drawn at random"),
        ("L0H0", "L0H0"),
    ],
)
def test_sets_of_heads_have_names(key, name):
    assert set_name(key, 2) == name


def test_every_finding_has_sentences_and_a_table(measured):
    found = findings(measured)
    names = [finding.name for finding in found]
    assert len(set(names)) == len(names)
    for finding in found:
        assert finding.text.endswith("."), finding.name
        assert finding.table, finding.name
        assert all(len(row) == len(finding.table.header) for row in finding.table.rows), finding.name
