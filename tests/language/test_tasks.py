"""Tasks: pairs of text from templates, and what of them a tokenizer allows."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pilot.errors import PilotError
from pilot.inputs.pairs import SPLITS
from pilot.language.pairs import MERGED, tokenised
from pilot.language.tasks import TASKS, Task

FUNCTION_WORDS = {"a", "and", "in", "is", "that", "the", "to", "at"}  # both splits may use them


def words_of(task: Task, split: str) -> set[str]:
    """Every word and number that a split's prompts can hold, but for the digits drawn."""
    material = getattr(task, split)
    texts = " ".join(chain(material.templates.values(), material.words.values()))
    return set(re.findall(r"\d\d|[A-Za-z]+", re.sub(r"\{\w+\}", "", texts)))


def tokenizer_of(words: set[str], number: str) -> PreTrainedTokenizerFast:
    """Every word is a token, with the space before it, and so is what the regular expression `number` matches."""
    vocabulary = ["<unk>", " ", ",", *map(str, range(10)), *map(str, range(1000, 2000)), *words]
    tokens = {token: i for i, token in enumerate(dict.fromkeys([*vocabulary, *(f" {word}" for word in words)]))}
    tokenizer = Tokenizer(models.WordLevel(tokens, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{number}| ?[A-Za-z]+| |,"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(params=TASKS.values(), ids=TASKS)
def task(request) -> Task:
    return request.param


@pytest.fixture
def tokenizer(task):
    """One that knows the task's words and makes every digit a token, as that of SmolLM2 does."""
    return tokenizer_of(words_of(task, "select") | words_of(task, "confirm"), number=r"\d")


def test_pairs_are_distinct_balanced_and_aligned(task, tokenizer):
    pairs = task.pairs(150, seed=0, tokenizer=tokenizer)
    assert len({frozenset((pair.clean, pair.corrupt)) for pair in pairs}) == 300
    assert {pair.edit for pair in pairs} == {task.edit}
    for split in SPLITS:
        templates = getattr(task, split).templates
        assert Counter(pair.template for pair in pairs if pair.split == split) == dict.fromkeys(
            templates, 150 // len(templates)
        )
    kept, tokens, left_out = tokenised(pairs, tokenizer, context=None)
    assert (len(kept), left_out) == (300, {})
    lengths = {(pair.template, len(ids.clean.ids)) for pair, ids in zip(kept, tokens, strict=True)}
    assert len(lengths) == len({pair.template for pair in pairs}), "each template has one length"
    assert {sum(a != b for a, b in zip(ids.clean.ids, ids.corrupt.ids, strict=True)) for ids in tokens} == {1}
    assert {len(side.answer) for ids in tokens for side in (ids.clean, ids.corrupt)} == {1}


def test_the_splits_share_no_template_and_no_content_word(task):
    assert not set(task.select.templates.values()) & set(task.confirm.templates.values())
    shared = {word.lower() for word in words_of(task, "select")} & {word.lower() for word in words_of(task, "confirm")}
    assert shared <= FUNCTION_WORDS


def test_fewer_pairs_are_the_first_ones_and_another_seed_gives_others(task, tokenizer):
    many, few, others = (task.pairs(n, seed, tokenizer) for n, seed in ((20, 0), (5, 0), (20, 1)))
    assert few == [*many[:5], *many[20:25]]
    assert len(set(many) & set(others)) < 10


def test_answers():
    """By their definition, read off the text."""
    tokenizer = tokenizer_of(
        set().union(*(words_of(task, split) for task in TASKS.values() for split in SPLITS)), r"\d"
    )
    for pair in TASKS["ioi"].pairs(20, 0, tokenizer):
        for text, answer in ((pair.clean, pair.clean_answer), (pair.corrupt, pair.corrupt_answer)):
            counts = Counter(re.findall(r"\w+", text))
            assert counts[answer.strip()] == 1
            assert counts[({pair.clean_answer, pair.corrupt_answer} - {answer}).pop().strip()] == 2
    for pair in TASKS["greater-than"].pairs(20, 0, tokenizer):
        for text, answer in ((pair.clean, pair.clean_answer), (pair.corrupt, pair.corrupt_answer)):
            start, century = re.findall(r"\d+", text)
            assert 0 < int(f"{century}{answer}0") - int(start) == 1
    for pair in TASKS["agreement"].pairs(20, 0, tokenizer):
        subjects = [set(text.split()) for text in (pair.clean, pair.corrupt)]
        (clean,), (corrupt,) = subjects[0] - subjects[1], subjects[1] - subjects[0]
        singular_first = (pair.clean_answer, pair.corrupt_answer) == (" is", " are")
        assert (len(clean) < len(corrupt)) == singular_first


def test_the_answer_is_the_first_name_as_often_as_the_second():
    task = TASKS["ioi"]
    pairs = task.pairs(40, 0, tokenizer_of(words_of(task, "select") | words_of(task, "confirm"), r"\d"))
    first = [pair.clean.index(pair.clean_answer) < pair.clean.index(pair.corrupt_answer) for pair in pairs]
    assert 20 < sum(first) < 60


def test_attractors_are_of_either_number():
    task = TASKS["agreement"]
    pairs = task.pairs(40, 0, tokenizer_of(words_of(task, "select") | words_of(task, "confirm"), r"\d"))
    assert 20 < sum(pair.clean.endswith("s") for pair in pairs) < 60


def test_a_tokenizer_that_knows_too_few_words_is_refused():
    tokenizer = tokenizer_of({"Mary", "John", "Anna", *words_of(TASKS["agreement"], "select")}, r"\d")
    with pytest.raises(PilotError, match="ioi: 3 of the 16 names of the select split are one token of this tokenizer"):
        TASKS["ioi"].pairs(10, 0, tokenizer)


def test_more_pairs_than_there_are_are_refused():
    """Of 10 subjects, 9 attractors, two numbers and two templates."""
    task = TASKS["agreement"]
    tokenizer = tokenizer_of(words_of(task, "select"), r"\d")
    with pytest.raises(
        PilotError, match=r"agreement: the tokenizer allows \d+ distinct pairs of the select split, not 400"
    ):
        task.pairs(400, 0, tokenizer)


def test_greater_than_refuses_a_tokenizer_of_whole_numbers():
    task = TASKS["greater-than"]
    tokenizer = tokenizer_of(words_of(task, "select") | words_of(task, "confirm"), number=r"\d+")
    with pytest.raises(PilotError, match=f"allows 0 distinct pairs of the select split, not 10.*{MERGED}"):
        task.pairs(10, 0, tokenizer)
