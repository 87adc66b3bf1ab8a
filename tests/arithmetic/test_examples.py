import pytest

from pilot.arithmetic.examples import Example, buckets_by_length, read_examples, write_examples
from pilot.arithmetic.vocabulary import END, encode
from pilot.errors import PilotError

EXAMPLES = [Example("1+2", "3"), Example("9*9", "81"), Example("4-((6+9)-9)", "-2"), Example("0*7", "0")]


def test_files_round_trip(tmp_path):
    path = tmp_path / "examples.jsonl"
    write_examples(path, EXAMPLES)
    assert path.read_text().splitlines()[2] == '{"expression": "4-((6+9)-9)", "result": "-2"}'
    assert read_examples(path) == EXAMPLES


GOOD = '{"expression": "1+2", "result": "3"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("[1]", 'exactly the keys "expression" and "result"'),
        ('{"expression": "1+2"}', "exactly the keys"),
        ('{"expression": "1+2", "result": 3}', '"result" must be a string, not 3'),
        ('{"expression": null, "result": "3"}', '"expression" must be a string, not null'),
        ('{"expression": "1+2", "result": "03"}', "plain integer"),
        ('{"expression": "1+2", "result": "4"}', r"1\+2 is 3, not 4"),
        ('{"expression": "1/2", "result": "0"}', "character '/' in '1/2' is not in the vocabulary"),
        ('{"expression": "1+", "result": "1"}', "not a well-formed expression"),
        ('{"expression": "1+2+3+4+5", "result": "15"}', "13 tokens long, more than the model's context of 8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "examples.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(PilotError, match=message) as error:
        read_examples(path, context=8)
    assert str(error.value).startswith(f"{path}:3: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path, text):
    path = tmp_path / "examples.jsonl"
    path.write_text(text)
    with pytest.raises(PilotError, match="holds no examples"):
        read_examples(path)


def test_a_missing_file_is_named_with_the_way_to_make_it(tmp_path):
    with pytest.raises(PilotError, match=r"nowhere.jsonl: no such file; .* dvc repro generate"):
        read_examples(tmp_path / "nowhere.jsonl")


def test_buckets_hold_every_example_once_with_the_answer_marked():
    buckets = buckets_by_length(EXAMPLES)
    assert [bucket.index.tolist() for bucket in buckets] == [[0, 3], [1], [2]]
    bucket = buckets[1]
    assert bucket.inputs.tolist() == [encode("9*9=81")]
    assert bucket.targets.tolist() == [[*encode("9*9=81")[1:], END]]
    assert bucket.targets[bucket.answer].tolist() == [8, 1, END]
    assert EXAMPLES[1].seq_len == bucket.ids.shape[1] == 8
