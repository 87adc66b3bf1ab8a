from types import SimpleNamespace

import pytest

from pilot.errors import PilotError
from pilot.interventions import (
    HeadPatch,
    at_positions,
    check_intervention,
    head_subsets,
    parse_heads,
    parse_positions,
    position_windows,
    single_heads,
    single_positions,
)
from pilot.models.transformer import ModelConfig, PilotTransformer

CONFIG = ModelConfig(n_layers=2, n_heads=4)


def test_single_heads_come_layer_by_layer():
    assert [patch.name for (patch,) in single_heads(CONFIG)] == [f"L{i}H{j}" for i in range(2) for j in range(4)]


def test_single_positions_come_head_by_head():
    names = [patch.name for (patch,) in single_positions(CONFIG, 3)]
    assert names[:4] == ["L0H0@0:1", "L0H0@1:2", "L0H0@2:3", "L0H1@0:1"]
    assert len(names) == 2 * 4 * 3


def test_windows_slide_over_the_sequence():
    both = (HeadPatch(0, 1), HeadPatch(1, 2))
    windows = position_windows([both], 7, width=3, step=2)
    assert windows == [at_positions(both, start, start + 3) for start in (0, 2, 4)]
    for width, step in ((0, 1), (8, 1), (3, 0)):
        with pytest.raises(PilotError, match="do not fit a sequence of 7"):
            position_windows([both], 7, width, step)


def test_subsets_are_ordered_by_bit_mask():
    a, b, c = (HeadPatch(0, head) for head in range(3))
    assert list(head_subsets((a, b, c))) == [(), (a,), (b,), (a, b), (c,), (a, c), (b, c), (a, b, c)]
    assert list(head_subsets(())) == [()]


def test_subsets_are_a_sequence_that_is_made_as_it_is_read():
    heads = tuple(patch for (patch,) in single_heads(ModelConfig(n_layers=5)))
    sets = head_subsets(heads)
    assert len(sets) == 2**20
    assert sets[-1] == sets[2**20 - 1] == heads
    assert sets[0b101] == (heads[0], heads[2])
    assert sets[3:0:-2] == [(heads[0], heads[1]), (heads[0],)]
    with pytest.raises(IndexError):
        sets[2**20]
    assert sets == head_subsets(list(heads))
    assert hash(sets) == hash(head_subsets(heads))
    assert sets != head_subsets(heads[1:])


@pytest.mark.parametrize(
    "model",
    [
        PilotTransformer(CONFIG),
        SimpleNamespace(num_hidden_layers=2, num_attention_heads=4),
        SimpleNamespace(config=SimpleNamespace(num_hidden_layers=2, num_attention_heads=4)),
    ],
    ids=["model", "another's config", "another's model"],
)
def test_heads_are_counted_by_model_or_config(model):
    assert single_heads(model) == single_heads(CONFIG)
    assert single_positions(model, 3) == single_positions(CONFIG, 3)


def test_what_does_not_say_its_heads_is_refused():
    with pytest.raises(PilotError, match="str does not say how many layers and heads"):
        single_heads("pilot")


def test_names_say_positions():
    assert HeadPatch(2, 3, 5, 10).name == "L2H3@5:10"
    assert HeadPatch(2, 3, 5).name == "L2H3@5:"
    assert HeadPatch(2, 3, 0, 4).name == "L2H3@0:4"


def test_heads_and_positions_are_parsed():
    assert parse_heads("2.2, 3.1,L0H1") == (HeadPatch(2, 2), HeadPatch(3, 1), HeadPatch(0, 1))
    assert [parse_positions(text) for text in ("5:10", "12:", ":3", ":")] == [(5, 10), (12, None), (0, 3), (0, None)]
    assert at_positions(parse_heads("1.0"), 5, 10) == (HeadPatch(1, 0, 5, 10),)


@pytest.mark.parametrize("text", ["", "2", "2.x", "2.2;3.1", "-1.0", "2.2,"])
def test_what_names_no_heads_is_refused(text):
    with pytest.raises(PilotError, match=r"is not of the form LAYER\.HEAD"):
        parse_heads(text)


def test_a_head_named_twice_is_refused():
    with pytest.raises(PilotError, match="name a head twice"):
        parse_heads("2.2,2.2")


@pytest.mark.parametrize(
    ("text", "message"), [("5", "not of the form"), ("5-10", "not of the form"), ("5:5", "empty"), ("5:0", "empty")]
)
def test_what_names_no_positions_is_refused(text, message):
    with pytest.raises(PilotError, match=message):
        parse_positions(text)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (HeadPatch(2, 0), "layer 2 does not exist: the model has layers 0 to 1"),
        (HeadPatch(0, 4), "head 4 does not exist: the model has heads 0 to 3"),
        (HeadPatch(0, 0, 0, 9), "positions 0:9 are outside the sequence of 8 positions"),
        (HeadPatch(0, 0, 8), "positions 8: are outside"),
        (HeadPatch(0, 0, 3, 3), "positions 3:3 are outside"),
    ],
)
def test_what_the_run_has_no_room_for_is_refused(patch, message):
    with pytest.raises(PilotError, match=message):
        check_intervention((HeadPatch(0, 0), patch), CONFIG, seq_len=8)
