from collections import Counter

import pytest
from support.project import ROOT, write_params

from pilot.arithmetic.edits import EDITS, edit_between
from pilot.arithmetic.grammar import evaluate, kind_of, operand_count
from pilot.arithmetic.sampling import _spread, draw_pairs, draw_splits
from pilot.errors import PilotError
from pilot.reporting.params import load_params


def params(tmp_path, **data):
    return load_params(write_params(tmp_path / "params.yaml", data=data)).data


@pytest.fixture(scope="module")
def defaults():
    """The pairs that the committed params.yaml draws, and the splits, with a training set that is drawn sooner.

    It has all expressions of three operands that nothing else has, as the whole one does.
    """
    data = load_params(ROOT / "params.yaml").data.model_copy(update={"train_size": 60000})
    return draw_pairs(data), draw_splits(data)


def expressions_of(pairs):
    return [side.expression for pair in pairs for side in (pair.clean, pair.corrupt)]


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
    assert draw_pairs(params(tmp_path)) == draw_pairs(params(tmp_path))
    assert draw_pairs(params(tmp_path)) != draw_pairs(params(tmp_path, seed=2))


def test_a_small_grammar_is_used_up(tmp_path):
    # 5 operands, 2 operators: 50 flat of 2 operands, 500 of 3; 1000 with parentheses.
    data = params(tmp_path, train_size=10**6, flat_fraction=0.5)
    texts = [example.expression for examples in draw_splits(data).values() for example in examples]
    texts += expressions_of(draw_pairs(data))
    assert len(texts) == len(set(texts)) == 50 + 500 + 1000


def test_two_digit_operands(tmp_path):
    splits = draw_splits(params(tmp_path, max_operand=99, operators="+-*", max_operands=4, train_size=3000))
    assert any("99" in example.expression for example in splits["train"])


def test_a_grammar_without_enough_expressions_is_said(tmp_path):
    # Operands 0 and 1, one operator: 4, 8, 16 flat expressions of two, three, four operands.
    with pytest.raises(PilotError, match="only 28 flat expressions, too few"):
        draw_splits(params(tmp_path, max_operand=1, operators="+", max_operands=4))
    with pytest.raises(PilotError, match="only 16 paren expressions, too few"):
        draw_pairs(params(tmp_path, max_operand=1, operators="+"))


def test_pairs_are_of_every_edit_and_operand_count_in_both_halves(defaults):
    pairs, _ = defaults
    # A tenth of the 18,000 expressions of three operands makes 300 pairs of each edit; four operands give the rest.
    assert Counter((p.edit, p.split, operand_count(p.clean.expression)) for p in pairs) == {
        (edit, split, n): number
        for edit in EDITS
        for split in ("select", "confirm")
        for n, number in [(3, 150), (4, 350)]
    }


def test_no_side_of_a_pair_is_in_another_pair_or_a_split(defaults):
    pairs, splits = defaults
    held_out = expressions_of(pairs)
    assert len(set(held_out)) == len(held_out) == 2 * 3000
    assert {name: len(examples) for name, examples in splits.items()} == {
        "train": 60000,
        "val": 4000,
        "test_flat": 2000,
        "test_paren": 2000,
    }
    for examples in splits.values():
        assert set(held_out).isdisjoint(example.expression for example in examples)
    kinds = Counter((kind_of(e.expression), operand_count(e.expression)) for e in splits["train"])
    assert kinds["paren", 3] == 18000 - 2 * 900 - 2 * 900  # all but val's and test's, and two sides of 900 pairs


def test_the_sides_of_a_pair_are_one_edit_and_some_value_apart(defaults):
    for pair in defaults[0]:
        clean, corrupt = pair.clean, pair.corrupt
        assert edit_between(clean.expression, corrupt.expression) == pair.edit
        assert (evaluate(clean.expression), evaluate(corrupt.expression)) == (int(clean.result), int(corrupt.result))
        assert clean.result != corrupt.result


@pytest.mark.parametrize("edit", EDITS)
def test_both_sides_have_one_distribution(defaults, edit):
    pairs = [pair for pair in defaults[0] if pair.edit == edit]
    for feature in (
        lambda example: example.expression.startswith("("),
        lambda example: "-" in example.expression,
        lambda example: int(example.result) < 0,
        lambda example: int(example.expression.strip("(")[0]) < 5,
    ):
        clean, corrupt = (
            sum(map(feature, sides)) for sides in zip(*((p.clean, p.corrupt) for p in pairs), strict=True)
        )
        # The difference sums 1000 differences that are -1, 0 or 1 with mean 0: its standard deviation is below 32.
        assert abs(clean - corrupt) < 4 * 32


def test_a_grammar_with_few_edits_has_fewer_pairs(tmp_path):
    # A tenth of 1000 expressions makes 16 pairs of each edit.
    assert Counter(pair.edit for pair in draw_pairs(params(tmp_path))) == dict.fromkeys(EDITS, 16)
    # No other operator, and parentheses in a sum do not change it: 250 expressions make 4 pairs of operands.
    assert Counter(pair.edit for pair in draw_pairs(params(tmp_path, operators="+"))) == {"operand": 4}


def test_the_share_held_out_bounds_evaluation_and_pairs(tmp_path):
    # 1000 expressions with parentheses: 100 each for test and val at most, and 33 pairs of each edit.
    data = params(tmp_path, held_out_share=0.2, pairs_per_edit=1000)
    splits = draw_splits(data)
    assert len(splits["test_paren"]) == 60, "as many as asked for"
    assert len(draw_splits(params(tmp_path, held_out_share=0.02))["test_paren"]) == 10
    assert Counter(pair.edit for pair in draw_pairs(data)) == dict.fromkeys(EDITS, 33)
    few_tries = Counter(pair.edit for pair in draw_pairs(params(tmp_path, tries_per_pair=1)))
    assert 0 < few_tries["regroup"] < 16


def test_more_tries_than_expressions_are_refused(tmp_path):
    with pytest.raises(PilotError, match=r"data: tries_per_pair must be at most 20 with held_out_share 0\.3"):
        params(tmp_path, held_out_share=0.3, tries_per_pair=21)
    assert draw_pairs(params(tmp_path, held_out_share=0.3, tries_per_pair=20))


def test_spread_fills_small_capacities_first():
    assert _spread(100, {2: 10, 3: 30, 4: 1000}) == {2: 10, 3: 30, 4: 60}
    assert _spread(90, {2: 100, 3: 100, 4: 100}) == {2: 30, 3: 30, 4: 30}
    assert _spread(100, {2: 10, 3: 20}) == {2: 10, 3: 20}
