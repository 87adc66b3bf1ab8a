import pytest
import torch

from pilot.arithmetic.examples import buckets_by_length
from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.scoring import score_model
from pilot.arithmetic.vocabulary import encode
from pilot.experiments.pairs import DIRECTIONS, paired_runs
from pilot.experiments.worked_examples import choose_pairs, greedy_answer, worked_example
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


def right(model, examples) -> list[bool]:
    return score_model(model, buckets_by_length(examples)).exact_match.tolist()


def test_pairs_are_right_on_both_sides_where_there_are_enough(model, pairs):
    clean, corrupt = (right(model, [getattr(pair, side) for pair in pairs]) for side in ("clean", "corrupt"))
    both = [pair for pair, *sides in zip(pairs, clean, corrupt, strict=True) if all(sides)]
    assert both, "the tiny model gets no pair right: nothing is tested here"
    assert choose_pairs(model, pairs, len(both)) == both
    assert choose_pairs(model, pairs, 1) == both[:1]
    assert choose_pairs(model, pairs, len(both) + 1)[0] == pairs[0]
    assert choose_pairs(model, pairs, len(pairs) + 9) == pairs


def test_the_unpatched_answer_is_right_exactly_where_teacher_forcing_says_so(model, pairs):
    examples = [pair.clean for pair in pairs]
    for example, is_right in zip(examples, right(model, examples), strict=True):
        prompt = torch.tensor([encode(f"{example.expression}=")])
        assert (greedy_answer(model, prompt, prompt, ()) == example.result) == is_right


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_patched_answer_is_the_donors_exactly_where_teacher_forcing_says_so(model, pairs, direction):
    patched = parse_heads("0.0,0.1,0.2,1.0,1.1,1.2,2.0,2.1,2.2")
    adopted = 0
    for runs in paired_runs(pairs, direction):
        read = torch.arange(runs.recipient.shape[1]).expand(len(runs.index), -1)
        (predicted,) = SweepEngine(model).predict(runs.recipient, runs.donor, [patched], read)
        for i, flipped in zip(runs.index, ((predicted == runs.targets) | ~runs.answer).all(1).tolist(), strict=True):
            answer = worked_example(model, pairs[i], patched)["patched"][direction]["top_k"]
            donor = pairs[i].clean if direction == "denoising" else pairs[i].corrupt
            assert (answer == donor.result) == flipped
            adopted += flipped
    assert adopted


def test_an_example_holds_what_the_page_shows(model, pairs):
    pair = pairs[0]
    example = worked_example(model, pair, parse_heads("0.0,1.1"))
    heads = [f"L{layer}H{head}" for layer in range(3) for head in range(3)]
    assert list(example["patched"]["noising"]) == [*heads, "top_k"]
    clean = example["clean"]
    assert clean["tokens"] == ["", *pair.clean.expression, "="]
    assert (clean["expression"], clean["result"]) == (pair.clean.expression, pair.clean.result)
    pattern = attention_patterns(model, torch.tensor([encode(f"{pair.clean.expression}=")]))[2][0, 1]
    assert [len(row) for row in clean["attention"]["L2H1"]] == list(range(1, len(clean["tokens"]) + 1))
    assert clean["attention"]["L2H1"][-1] == pytest.approx((1000 * pattern[-1]).tolist(), abs=0.5)


def test_an_answer_ends_with_the_context(small_model):
    small_model.unembed.weight.data[-1] = -100 * small_model.unembed.weight.data[:-1].abs().max()  # END is never said
    prompt = torch.tensor([encode("1+2=")])
    answer = greedy_answer(small_model, prompt, prompt, ())
    assert len(prompt[0]) + len(answer) <= small_model.config.context + 1
