from support.project import write_params

from pilot.arithmetic.examples import Example
from pilot.arithmetic.pairs import CounterfactualPair
from pilot.arithmetic.prompts import position_labels, prompts_of, token_pairs
from pilot.arithmetic.sampling import draw_pairs
from pilot.arithmetic.vocabulary import END, decode, encode
from pilot.reporting.params import load_params


def pair(clean, x, corrupt, y):
    return CounterfactualPair(Example(clean, x), Example(corrupt, y), "operand", "confirm")


def test_a_prompt_ends_with_the_equals_sign_and_its_answer_with_the_marker():
    (prompt,) = prompts_of([Example("(9*2)-1", "17")])
    assert list(prompt.ids) == encode("(9*2)-1=")
    assert prompt.answer == (1, 7, END)
    assert prompt.seq_len == len(encode("(9*2)-1=17"))


def test_answers_part_at_the_first_token_that_differs_end_markers_included():
    parts, differs = token_pairs([pair("(9*2)-1", "17", "(1*2)-1", "1"), pair("1-(1-3)", "3", "1-(1+3)", "-3")])
    # "17" and "1" part at their second token, which is read at position 9: <end> ( 9 * 2 ) - 1 = 1
    assert (parts.answers_part, parts.contrast) == (1, 9)
    assert (differs.answers_part, differs.contrast) == (0, encode("1-(1-3)=").index(encode("=")[1]))
    assert (parts.edit, parts.split) == ("operand", "confirm")


def test_every_drawn_pair_is_a_pair_of_tokens(tmp_path):
    drawn = draw_pairs(load_params(write_params(tmp_path / "params.yaml", data={"max_operands": 4})).data)
    for before, after in zip(drawn, token_pairs(drawn), strict=True):
        for side, prompt in ((before.clean, after.clean), (before.corrupt, after.corrupt)):
            assert decode(prompt.ids) == f"{side.expression}="
            assert decode(prompt.answer) == side.result


def test_labels_are_what_stands_at_each_position_and_both_where_the_sides_differ():
    (of_regroup, of_operand) = token_pairs(
        [pair("4-(3-2)", "3", "(4-3)-2", "-1"), pair("(4-12)", "-8", "(4+15)", "19")]
    )
    assert position_labels(of_regroup) == ("^", "n/(", "∘/n", "(/∘", "n", "∘/)", "n/∘", ")/n", "=")
    assert position_labels(of_operand) == ("^", "(", "n", "∘", "n", "n", ")", "=")
