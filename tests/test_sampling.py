import pytest
from project import write_params

from pilot.errors import PilotError
from pilot.expressions import evaluate, kind_of
from pilot.params import load_params
from pilot.sampling import _spread, draw_splits


def params(tmp_path, **data):
    return load_params(write_params(tmp_path / "params.yaml", data=data)).data


def test_no_expression_is_in_two_splits_or_twice_in_one(tmp_path):
    splits = draw_splits(
        params(tmp_path, max_operand=9, max_operands=4, train_size=20000, test_size=2000, val_size=500)
    )
    texts = [example.expression for examples in splits.values() for example in examples]
    assert len(set(texts)) == len(texts) > 20000 + 4000 + 1000 - 1
    for name, kind in [("test_flat", "flat"), ("test_paren", "paren")]:
        assert len(splits[name]) == 2000
        assert {kind_of(example.expression) for example in splits[name]} == {kind}
    assert all(str(evaluate(e.expression)) == e.result for e in splits["train"][:1000])


def test_the_same_seed_draws_the_same_and_another_does_not(tmp_path):
    assert draw_splits(params(tmp_path)) == draw_splits(params(tmp_path))
    assert draw_splits(params(tmp_path)) != draw_splits(params(tmp_path, seed=2))


def test_a_small_grammar_is_used_up(tmp_path):
    # 5 operands, 2 operators: 50 flat of 2 operands, 500 of 3; 1000 with parentheses.
    splits = draw_splits(params(tmp_path, train_size=10**6, flat_fraction=0.5))
    assert sum(len(examples) for examples in splits.values()) == 50 + 500 + 1000


def test_two_digit_operands(tmp_path):
    splits = draw_splits(params(tmp_path, max_operand=99, operators="+-*", max_operands=4, train_size=3000))
    assert any("99" in example.expression for example in splits["train"])


def test_a_grammar_without_enough_expressions_is_said(tmp_path):
    # Operands 0 and 1, one operator: 4 flat expressions of two operands and 8 of three.
    with pytest.raises(PilotError, match="only 12 flat expressions, too few"):
        draw_splits(params(tmp_path, max_operand=1, operators="+"))


def test_spread_fills_small_capacities_first():
    assert _spread(100, {2: 10, 3: 30, 4: 1000}) == {2: 10, 3: 30, 4: 60}
    assert _spread(90, {2: 100, 3: 100, 4: 100}) == {2: 30, 3: 30, 4: 30}
    assert _spread(100, {2: 10, 3: 20}) == {2: 10, 3: 20}
