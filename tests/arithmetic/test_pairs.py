import json
from dataclasses import asdict

import pytest

from pilot.arithmetic.examples import Example
from pilot.arithmetic.pairs import CounterfactualPair, read_pairs, write_pairs
from pilot.errors import PilotError

REGROUP = CounterfactualPair(Example("8-(3-2)", "7"), Example("(8-3)-2", "3"), "regroup", "select")
OPERAND = CounterfactualPair(Example("(9*2)-1", "17"), Example("(1*2)-1", "1"), "operand", "confirm")


def test_files_round_trip(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [REGROUP, OPERAND])
    assert path.read_text().splitlines()[0] == (
        '{"clean": {"expression": "8-(3-2)", "result": "7"}, "corrupt": {"expression": "(8-3)-2", "result": "3"}, '
        '"edit": "regroup", "split": "select"}'
    )
    assert read_pairs(path, context=11) == [REGROUP, OPERAND]


def side(expression, result):
    return {"expression": expression, "result": result}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edits": "regroup"}, 'exactly the keys "clean", "corrupt", "edit" and "split"'),
        ({"clean": "8-(3-2)"}, 'exactly the keys "expression" and "result"'),
        ({"clean": side("8-(3-2)", "3")}, r"8-\(3-2\) is 7, not 3"),
        ({"edit": "swap"}, '"edit" must be one of regroup, operator, operand, not "swap"'),
        ({"split": ["select"]}, r'"split" must be one of select, confirm, not \["select"\]'),
        (
            {"edit": "operator"},
            r"8-\(3-2\) and \(8-3\)-2 are not two parenthesised expressions one operator edit apart",
        ),
        ({"clean": side("8-3-2", "3")}, "not two parenthesised expressions"),
        ({"clean": side("8-(3-0)", "5"), "corrupt": side("(8-3)-0", "5")}, "have the same result, 5"),
        ({"clean": side("8*(3*9)", "216")}, r"8\*\(3\*9\)=216 is 12 tokens long, more than the model's context of 10"),
    ],
)
def test_a_bad_line_is_named(tmp_path, changes, message):
    path = tmp_path / "pairs.jsonl"
    good = asdict(REGROUP)
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(good | changes)}\n")
    with pytest.raises(PilotError, match=message) as error:
        read_pairs(path, context=10)
    assert str(error.value).startswith(f"{path}:3: ")
    assert "\n" not in str(error.value)


def test_a_file_without_pairs_is_an_error(tmp_path):
    with pytest.raises(PilotError, match=r"nowhere.jsonl: no such file; .* dvc repro generate"):
        read_pairs(tmp_path / "nowhere.jsonl")
    (tmp_path / "pairs.jsonl").write_text("\n")
    with pytest.raises(PilotError, match="holds no pairs"):
        read_pairs(tmp_path / "pairs.jsonl")
