import numpy as np
import pytest
import torch

from pilot.arithmetic.examples import buckets_by_length
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.arithmetic.scoring import score_model
from pilot.arithmetic.vocabulary import END, decode, encode
from pilot.experiments.effects import PairExperiment
from pilot.experiments.worked_examples import choose_evenly, greedy_answer, worked_example
from pilot.inputs.pairs import DIRECTIONS
from pilot.interventions import parse_heads
from pilot.models.checkpoint import load_model
from pilot.models.hooks import attention_patterns
from pilot.sweep import SweepEngine


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained.checkpoint)


@pytest.fixture(scope="module")
def pairs(trained):
    return read_pairs(trained.data / "pilot_pairs.jsonl")


def test_those_that_are_right_are_chosen_evenly_where_there_are_enough():
    right = np.array([False, True, False, True, True, False, True])
    assert choose_evenly(right, 4) == [1, 3, 4, 6]
    assert choose_evenly(right, 2) == [1, 6]
    assert choose_evenly(right, 1) == [1]
    assert choose_evenly(right, 5) == [0, 2, 3, 4, 6]
    assert choose_evenly(right, 9) == list(range(7))


def test_the_unpatched_answer_is_right_exactly_where_teacher_forcing_says_so(model, pairs):
    examples = [pair.clean for pair in pairs]
    right = score_model(model, buckets_by_length(examples)).exact_match.tolist()
    assert any(right)
    assert not all(right)
    for example, is_right in zip(examples, right, strict=True):
        prompt = torch.tensor([encode(f"{example.expression}=")])
        assert (decode(greedy_answer(model, prompt, prompt, (), END)) == example.result) == is_right


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_patched_answer_is_the_donors_exactly_where_teacher_forcing_says_so(model, pairs, direction):
    patched = parse_heads("0.0,0.1,0.2,1.0,1.1,1.2,2.0,2.1,2.2")
    tokens = token_pairs(pairs)
    (adopted,) = PairExperiment(SweepEngine(model), tokens, direction).effects([patched]).adopted
    for pair, of_tokens, flipped in zip(pairs, tokens, adopted, strict=True):
        answer = worked_example(model, of_tokens, patched, decode)["patched"][direction]["top_k"]
        donor = pair.clean if direction == "denoising" else pair.corrupt
        assert (answer == donor.result) == flipped
    assert adopted.any()


def test_an_example_holds_what_the_page_shows(model, pairs):
    pair = pairs[0]
    example = worked_example(model, *token_pairs([pair]), parse_heads("0.0,1.1"), decode)
    heads = [f"L{layer}H{head}" for layer in range(3) for head in range(3)]
    assert list(example["patched"]["noising"]) == [*heads, "top_k"]
    clean = example["clean"]
    assert clean["tokens"] == ["", *pair.clean.expression, "="]
    pattern = attention_patterns(model, torch.tensor([encode(f"{pair.clean.expression}=")]))[2][0, 1]
    assert [len(row) for row in clean["attention"]["L2H1"]] == list(range(1, len(clean["tokens"]) + 1))
    assert clean["attention"]["L2H1"][-1] == pytest.approx((1000 * pattern[-1]).tolist(), abs=0.5)


def test_an_answer_ends_with_the_context(small_model):
    small_model.unembed.weight.data[-1] = -100 * small_model.unembed.weight.data[:-1].abs().max()  # END is never said
    prompt = torch.tensor([encode("1+2=")])
    answer = greedy_answer(small_model, prompt, prompt, (), END)
    assert len(prompt[0]) + len(answer) == small_model.config.context + 1
