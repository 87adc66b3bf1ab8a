from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.arithmetic.edits import EDITS, edit_between, neighbours
from pilot.arithmetic.grammar import Grammar, kind_of

ONE_DIGIT = Grammar(max_operand=9, operators="+-*", min_operands=2, max_operands=4)
TWO_DIGITS = Grammar(max_operand=12, operators="+-*", min_operands=2, max_operands=5)


def test_the_neighbours_of_a_small_expression():
    assert neighbours(ONE_DIGIT, "8-(3-2)", "regroup") == ["(8-3)-2"]
    assert neighbours(ONE_DIGIT, "8-(3-2)", "operator") == ["8+(3-2)", "8*(3-2)", "8-(3+2)", "8-(3*2)"]
    operands = neighbours(ONE_DIGIT, "8-(3-2)", "operand")
    assert len(operands) == 3 * 9
    assert {"0-(3-2)", "8-(9-2)", "8-(3-0)"} <= set(operands)


def test_regrouping_keeps_the_number_of_parentheses():
    assert set(neighbours(ONE_DIGIT, "(1+2)*3-4", "regroup")) == {"1+(2*3)-4", "1+2*(3-4)", "(1+2*3)-4", "1+(2*3-4)"}
    assert "(1+2)*(3-4)" in neighbours(ONE_DIGIT, "((1+2)*3)-4", "regroup")


def test_an_operand_keeps_its_number_of_digits():
    assert neighbours(TWO_DIGITS, "(10-10)+10", "operand") == [
        *("(11-10)+10", "(12-10)+10", "(10-11)+10", "(10-12)+10", "(10-10)+11", "(10-10)+12")
    ]
    assert len(neighbours(TWO_DIGITS, "(3-10)+10", "operand")) == 9 + 2 + 2


def test_a_grammar_of_one_operator_has_no_operator_edit():
    assert neighbours(Grammar(9, "+", 2, 4), "(1+2)+3", "operator") == []


@pytest.mark.parametrize("edit", EDITS)
def test_neighbours_are_all_the_expressions_of_a_grammar_that_the_edit_leads_to(edit):
    grammar = Grammar(max_operand=1, operators="+-*", min_operands=3, max_operands=3)
    every = [grammar.expression("paren", 3, i) for i in range(grammar.count("paren", 3))]
    adjacent = {first: neighbours(grammar, first, edit) for first in every}
    for first, second in product(every, every):
        assert adjacent[first].count(second) == (edit_between(first, second) == edit)


@given(st.data())
def test_an_edit_keeps_the_length_and_can_be_undone(data):
    n, edit = data.draw(st.sampled_from([3, 4, 5])), data.draw(st.sampled_from(EDITS))
    first = TWO_DIGITS.expression("paren", n, data.draw(st.integers(0, TWO_DIGITS.count("paren", n) - 1)))
    others = neighbours(TWO_DIGITS, first, edit)
    assert len(set(others)) == len(others)
    second = data.draw(st.sampled_from(others))
    assert second != first
    assert len(second) == len(first)
    assert kind_of(second) == "paren"
    assert edit_between(first, second) == edit_between(second, first) == edit
    # As many neighbours on both sides: a random one of a random expression is as likely the other way round.
    back = neighbours(TWO_DIGITS, second, edit)
    assert first in back
    assert len(back) == len(others)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("8-(3-2)", "8-(3-2)"),
        ("1+2+3", "1+2-3"),  # no parentheses
        ("8-(3-2)", "8-3-2+1"),  # on one side only
        ("8-(3-2)", "(8-3)-2-1"),
        ("8-(3-2)", "8+(3+2)"),  # two operators
        ("8-(3-2)", "(8-3)+2"),  # regrouped, and an operator
        ("8-(13-2)", "18-(3-2)"),  # the operands' digits
        ("8-(3+21)", "8-(3+2+1)"),
        ("1-(12+3)", "1-(1+23)"),
    ],
)
def test_what_no_single_edit_leads_to(first, second):
    assert edit_between(first, second) is None
