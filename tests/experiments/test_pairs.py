import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from support.project import write_params

from pilot.arithmetic.examples import Example
from pilot.arithmetic.pairs import CounterfactualPair, read_pairs, write_pairs
from pilot.arithmetic.sampling import draw_pairs
from pilot.arithmetic.vocabulary import END, encode
from pilot.errors import PilotError
from pilot.experiments.pairs import DIRECTIONS, paired_runs
from pilot.reporting.params import load_params

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


@pytest.mark.parametrize(
    ("direction", "forced", "recipient", "donor", "complete", "donor_token", "recipient_token"),
    [
        ("denoising", "donor", "(1*2)-1=17", "(9*2)-1=17", "(9*2)-1=17", 7, END),
        ("denoising", "recipient", "(1*2)-1=1", "(9*2)-1=1", "(1*2)-1=1", 7, END),
        ("noising", "donor", "(9*2)-1=1", "(1*2)-1=1", "(1*2)-1=1", END, 7),
        ("noising", "recipient", "(9*2)-1=17", "(1*2)-1=17", "(9*2)-1=17", END, 7),
    ],
)
def test_both_runs_are_followed_by_one_answer(
    direction, forced, recipient, donor, complete, donor_token, recipient_token
):
    (runs,) = paired_runs([OPERAND], direction, forced)
    assert runs.index.tolist() == [0]
    assert runs.recipient.tolist() == [encode(recipient)]
    assert runs.donor.tolist() == [encode(donor)]
    assert runs.targets.tolist() == [[*encode(complete)[1:], END]]
    assert runs.targets[runs.answer].tolist() == [*encode(complete.split("=")[1])[1:], END]
    # "17" and "1" part at their second token, which is read at position 9: <end> ( 9 * 2 ) - 1 = 1
    assert runs.contrast.tolist() == [9]
    assert (runs.donor_token.tolist(), runs.recipient_token.tolist()) == ([donor_token], [recipient_token])


def test_answers_of_other_signs_part_at_the_equals_sign():
    pair = CounterfactualPair(Example("1-(1-3)", "3"), Example("(1-1)-3", "-3"), "regroup", "select")
    (runs,) = paired_runs([pair], "denoising")
    assert runs.contrast.tolist() == [encode("1-(1-3)=").index(encode("=")[1])] == [8]
    assert (runs.donor_token.tolist(), runs.recipient_token.tolist()) == ([3], encode("-")[1:])


def test_a_bucket_is_sorted_by_the_first_difference():
    late = CounterfactualPair(Example("8-(3-2)", "7"), Example("8-(3-1)", "6"), "operand", "select")
    middle = CounterfactualPair(Example("8-(3-2)", "7"), Example("8+(3-2)", "9"), "operator", "select")
    short, long = paired_runs([late, REGROUP, OPERAND, middle, late], "denoising")
    assert short.index.tolist() == [1, 3, 0, 4]
    assert (short.recipient != short.donor).int().argmax(1).tolist() == [1, 2, 6, 6]
    assert long.index.tolist() == [2]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_runs_of_drawn_pairs(tmp_path, direction):
    pairs = draw_pairs(load_params(write_params(tmp_path / "params.yaml", data={"max_operands": 4})).data)
    forced = {side: paired_runs(pairs, direction, side) for side in ("donor", "recipient")}
    before_the_answers_part = {}
    for side, buckets in forced.items():
        assert sorted(np.concatenate([runs.index for runs in buckets])) == list(range(len(pairs)))
        for runs in buckets:
            own = {"donor": runs.donor, "recipient": runs.recipient}[side]
            assert torch.equal(runs.targets[:, :-1], own[:, 1:])
            assert (runs.targets[:, -1] == END).all()
            assert ((runs.recipient == runs.donor) | ~runs.answer).all()
            at_contrast = runs.targets.gather(1, runs.contrast.unsqueeze(1)).squeeze(1)
            assert torch.equal(at_contrast, {"donor": runs.donor_token, "recipient": runs.recipient_token}[side])
            assert (runs.donor_token != runs.recipient_token).all()
            for i, recipient, contrast in zip(runs.index, runs.recipient, runs.contrast, strict=True):
                before_the_answers_part.setdefault(int(i), set()).add(tuple(recipient[: contrast + 1].tolist()))
    # Up to the contrast it is the same run, whichever answer is forced.
    assert all(len(prefixes) == 1 for prefixes in before_the_answers_part.values())
