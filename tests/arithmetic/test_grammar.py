import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.arithmetic.grammar import Grammar, evaluate, groupings, kind_of, operand_count
from pilot.errors import PilotError

GRAMMAR = Grammar(max_operand=99, operators="+-*", min_operands=2, max_operands=4)


def test_groupings_of_three_operands():
    assert groupings("flat", 3) == ("a.a.a",)
    assert set(groupings("paren", 3)) == {"(a.a).a", "a.(a.a)"}


@pytest.mark.parametrize(("n_operands", "schroeder"), [(2, 1), (3, 3), (4, 11), (5, 45), (6, 197)])
def test_groupings_are_counted_by_the_little_schroeder_numbers(n_operands, schroeder):
    every = groupings("flat", n_operands) + groupings("paren", n_operands)
    assert len(set(every)) == len(every) == schroeder


def test_nested_and_side_by_side_groupings_exist():
    assert {"a.((a.a).a)", "(a.a).(a.a)", "a.(a.a.a)"} <= set(groupings("paren", 4))


def test_every_number_is_another_expression():
    grammar = Grammar(max_operand=1, operators="+*", min_operands=2, max_operands=3)
    for kind, n, count in [("flat", 2, 4 * 2), ("flat", 3, 8 * 4), ("paren", 3, 2 * 8 * 4)]:
        assert grammar.count(kind, n) == count
        assert len({grammar.expression(kind, n, i) for i in range(count)}) == count


@given(st.data())
def test_the_value_is_pythons(data):
    kind, n = data.draw(st.sampled_from([("flat", 2), ("flat", 4), ("paren", 3), ("paren", 4)]))
    expression = GRAMMAR.expression(kind, n, data.draw(st.integers(0, GRAMMAR.count(kind, n) - 1)))
    assert evaluate(expression) == eval(expression)
    assert kind_of(expression) == kind
    assert operand_count(expression) == n


def test_no_line_is_longer_than_the_bound():
    for grammar in (GRAMMAR, Grammar(9, "+-*", 2, 4), Grammar(1, "+*", 2, 5)):
        for kind in ("flat", "paren"):
            count = grammar.count(kind, grammar.max_operands)
            for i in random.Random(0).sample(range(count), min(count, 5000)):
                expression = grammar.expression(kind, grammar.max_operands, i)
                assert len(f"{expression}={evaluate(expression)}") <= grammar.longest_line()


def test_values_by_hand():
    assert evaluate("41-((65+69)-69)") == -24
    assert evaluate("3+7*2") == 17
    assert evaluate("99*99*99*99") == 96059601


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1+", "not a well-formed"),
        ("(1+2", "not a well-formed"),
        ("", "not a well-formed"),
        ("-1", "not a chain of operands"),
        ("2**3", "not a chain of operands"),
        ("__import__('os')", "not an arithmetic expression"),
        ("1/2", "not an arithmetic expression"),
        ("(" * 240 + "1" + ")" * 240, "not a well-formed"),
        ("1+" * 250 + "1", "501 characters is too long, want at most 500"),
    ],
)
def test_what_is_not_an_expression_is_said(text, message):
    with pytest.raises(PilotError, match=message):
        evaluate(text)
