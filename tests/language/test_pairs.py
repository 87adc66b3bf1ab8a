"""Pairs of text: their file, what a tokenizer makes of them, and head effects on them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from support.tiny_language import tiny_llama, word_tokenizer

from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.inputs.pairs import TokenPair
from pilot.inputs.prompts import Prompt
from pilot.interventions import single_heads
from pilot.language import pairs as reasons
from pilot.language.pairs import TextPair, read_text_pairs, tokenised, write_text_pairs
from pilot.sweep import SweepEngine

WORDS = ["the", "cat", "cats", "dog", "dogs", "sleeps", "sleep", "near"]
PAIR = TextPair("the cat", "the cats", " sleeps", " sleep", "number", "select")


def of(prompts: str, answers: str, **changes: str) -> TextPair:
    """ "clean / corrupt" prompts and answers."""
    clean, corrupt, clean_answer, corrupt_answer = [*prompts.split(" / "), *answers.split("/")]
    return TextPair(clean, corrupt, clean_answer, corrupt_answer, **{"edit": "number", "split": "select"} | changes)


@pytest.fixture(params=[False, True], ids=["plain", "bos"])
def tokenizer(request):
    return word_tokenizer(["the", *(f" {word}" for word in WORDS)], bos=request.param)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pairs.jsonl"


def test_pairs_come_back(path):
    written = [PAIR, dataclasses.replace(PAIR, clean="Über\u2028«the»\x85\ttwo\nlines", edit="名", split="confirm")]
    write_text_pairs(path, written)
    assert read_text_pairs(path) == written
    assert len(path.read_bytes().splitlines()) == 2


def test_the_template_may_be_left_out(path):
    """And pairs of another template are no wrong donors."""
    bare = {key: value for key, value in dataclasses.asdict(PAIR).items() if key != "template"}
    named = dataclasses.replace(PAIR, template="bare")
    path.write_text(json.dumps(bare) + "\n" + json.dumps(bare | {"template": "bare"}))
    assert read_text_pairs(path) == [PAIR, named]


def test_blank_lines_and_windows_line_ends_do_no_harm(path):
    line = json.dumps(dataclasses.asdict(PAIR))
    path.write_bytes(f"\r\n{line}\r\n\r\n{line}".encode())
    assert read_text_pairs(path) == [PAIR, PAIR]


RECORD = dataclasses.asdict(PAIR)
KEYS = 'want an object with exactly the keys "clean", "corrupt", "clean_answer", "corrupt_answer", "edit" and "split"'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("the cat\tthe cats", "not JSON (Expecting value)"),
        ('{"clean": "the cat"', "not JSON (Expecting ',' delimiter)"),
        ("9" * 5000, "not JSON (nested too deeply, or too long a number)"),
        ("[1, 2]", KEYS),
        ('"the cat"', KEYS),
        (json.dumps({"clean": "the cat"}), KEYS),
        (json.dumps(RECORD | {"note": "mine"}), KEYS),
        (json.dumps(RECORD | {"clean": ""}), '"clean" must be text, not ""'),
        (json.dumps(RECORD | {"clean_answer": 7}), '"clean_answer" must be text, not 7'),
        (json.dumps(RECORD | {"template": 7}), '"template" must be text, not 7'),
        (json.dumps(RECORD | {"edit": None}), '"edit" must be text, not null'),
        (json.dumps(RECORD | {"corrupt": "\ud800"}), '"corrupt" must be text, not "\\ud800"'),
        (json.dumps(RECORD | {"split": "test"}), '"split" must be one of select, confirm, not "test"'),
    ],
)
def test_lines_that_are_no_pairs_are_refused(line, message, path):
    path.write_text(json.dumps(RECORD) + "\n\n" + line + "\n")
    with pytest.raises(PilotError) as error:
        read_text_pairs(path)
    assert str(error.value) == f"{path}:3: {message}"


def test_files_without_pairs_are_refused(path):
    with pytest.raises(PilotError, match=r"pairs.jsonl: no such file"):
        read_text_pairs(path)
    path.write_text("\n\n")
    with pytest.raises(PilotError, match=r"pairs.jsonl: holds no pairs"):
        read_text_pairs(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PilotError, match=r"pairs.jsonl: not UTF-8 text"):
        read_text_pairs(path)


def test_tokens_of_a_pair(tokenizer):
    """Of answers of several tokens, which share their first one; markers in front of a text are kept."""
    pair = of("the dog / the dogs", " near the dog/ near the dogs near", split="confirm")
    kept, (tokens,), left_out = tokenised([pair], tokenizer, context=8)
    ids = {word: i for word, i in tokenizer.get_vocab().items()}
    front = tuple(tokenizer("")["input_ids"])
    assert front in ((), (ids["<s>"],))

    def prompt(text: list[str], answer: list[str]) -> Prompt:
        return Prompt((*front, *(ids[token] for token in text)), tuple(ids[token] for token in answer))

    assert (kept, left_out) == ([pair], {})
    assert tokens == TokenPair(
        prompt(["the", " dog"], [" near", " the", " dog"]),
        prompt(["the", " dogs"], [" near", " the", " dogs", " near"]),
        edit="number",
        split="confirm",
        bucket=("number", ""),
    )
    assert (tokens.first_difference, tokens.answers_part) == (len(front) + 1, 2)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (of("the cat / the cats near", " sleeps/ sleep"), reasons.UNEQUAL_LENGTHS),
        (of("the cat / the cat", " sleeps/ sleep"), reasons.SAME_PROMPTS),
        (of("the mouse / the mice", " sleeps/ sleep"), reasons.SAME_PROMPTS),  # both unknown to the tokenizer
        (of("the cat / the cats", " sleeps/ sleeps"), reasons.ANSWERS_DO_NOT_PART),
        (of("the cat / the cats", " sleeps/ sleeps near"), reasons.ANSWERS_DO_NOT_PART),
        (of("the cat / the cats", "s/ sleep"), reasons.MERGED),
        (of("the cat / the cats", " sleeps/" + " near" * 8), reasons.TOO_LONG),
    ],
)
def test_pairs_that_cannot_be_patched_are_left_out_and_counted(pair, reason, tokenizer):
    kept, tokens, left_out = tokenised([pair, PAIR, pair], tokenizer, context=8)
    assert kept == [PAIR]
    assert len(tokens) == 1
    assert left_out == {reason: 2}


def test_a_run_may_fill_the_context(tokenizer):
    """The last token of an answer is predicted, not read."""
    needed = len(tokenizer(PAIR.clean + PAIR.clean_answer)["input_ids"]) - 1
    assert tokenised([PAIR], tokenizer, needed).text == [PAIR]
    assert tokenised([PAIR], tokenizer, needed - 1).left_out == {reasons.TOO_LONG: 1}
    assert tokenised([PAIR], tokenizer, None).text == [PAIR]


@pytest.mark.filterwarnings("error")
def test_effects_of_heads_are_those_of_whole_forwards(tokenizer):
    pairs = [
        PAIR,
        of("the cat near the dog / the cats near the dog", " sleeps/ sleep"),
        of("the dog / the dogs", " near the dog/ near the dogs near"),
    ]
    model = tiny_llama(len(tokenizer))
    tokens = tokenised(pairs, tokenizer, model.config.max_position_embeddings).tokens
    recovery, reference = (
        PairExperiment(SweepEngine(model, impl), tokens, "denoising").recovery(single_heads(model))
        for impl in ("auto", "reference")
    )
    assert np.abs(reference).max() > 0.05, "heads without an effect would prove nothing"
    np.testing.assert_allclose(recovery, reference, atol=1e-4)
