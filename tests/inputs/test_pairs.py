import pytest

from pilot.errors import PilotError
from pilot.inputs.pairs import TokenPair
from pilot.inputs.prompts import Prompt

CLEAN, CORRUPT = Prompt((1, 2, 3), (5, 6, 9)), Prompt((1, 4, 3), (5, 7, 9))


def test_answers_are_told_apart_where_they_first_differ():
    pair = TokenPair(CLEAN, CORRUPT)
    assert (pair.first_difference, pair.answers_part, pair.contrast) == (1, 1, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": (1, 2)}, "the clean prompt has 3 tokens and the corrupt one 2: both need the same number"),
        ({"ids": CLEAN.ids}, "the clean and the corrupt prompt are the same: there is nothing to patch"),
        ({"answer": CLEAN.answer}, "the clean and the corrupt answer are the same"),
        ({"answer": (5, 6)}, "one answer is the start of the other, so they part at no position of the sequence"),
        ({"answer": ()}, "one answer is the start of the other"),
    ],
)
def test_sides_that_make_no_pair_are_refused(changes, message):
    with pytest.raises(PilotError, match=message) as error:
        TokenPair(CLEAN, CORRUPT._replace(**changes))
    assert "\n" not in str(error.value)


def test_empty_prompts_and_unknown_splits_are_refused():
    with pytest.raises(PilotError, match="the clean prompt has 0 tokens and the corrupt one 0"):
        TokenPair(Prompt((), (1,)), Prompt((), (2,)))
    with pytest.raises(PilotError, match="split must be one of select, confirm, not 'test'"):
        TokenPair(CLEAN, CORRUPT, split="test")
