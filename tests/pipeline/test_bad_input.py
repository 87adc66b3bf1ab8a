"""Damaged and foreign input, drawn at random: it is refused in one line, or it means what it says. Nothing is run."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.project import ROOT

from pilot.arithmetic.examples import read_examples
from pilot.arithmetic.grammar import evaluate
from pilot.errors import PilotError
from pilot.models.checkpoint import checkpoint_bytes, load_model
from pilot.reporting.params import Params, load_params
from pilot.runtime.archive import pack
from stages import train

PARAMS = (ROOT / "params.yaml").read_bytes()
DATA = b"".join(
    b'{"expression": "%s", "result": "%s"}\n' % line
    for line in [(b"1+2", b"3"), (b"4-((6+9)-9)", b"-2"), (b"9*9", b"81")]
)


def bounded(max_examples: int):
    """A bounded search that is the same in every run; tmp_path may serve all of its examples."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """`whole` after a few edits: bits flipped, slices cut, repeated, overwritten."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = start + draw(st.integers(1, 12))
        edit = draw(st.sampled_from(["flip", "cut", "cut off", "repeat", "overwrite"]))
        if edit == "flip" and content:
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif edit == "cut":
            del content[start:stop]
        elif edit == "cut off":
            del content[start:]
        elif edit == "repeat":
            content[stop:stop] = content[start:stop]
        else:
            content[start:stop] = draw(st.binary(max_size=12))
    return bytes(content)


def read(function, path, content: bytes):
    """`function(path)` of a file with `content`; None where it is refused, in one line that names the file."""
    path.write_bytes(content)
    result = refusal = None
    try:
        result = function(path)
    except PilotError as error:
        refusal = str(error)
    assert refusal is None or (refusal.startswith(str(path)) and "\n" not in refusal)
    assert path.read_bytes() == content
    return result


def only_true_examples(path, content: bytes) -> None:
    for found in read(read_examples, path, content) or ():
        assert str(evaluate(found.expression)) == found.result
        assert found.expression.encode() in content.replace(b"\\", b"") or b"\\u" in content


@bounded(300)
@given(damaged(DATA))
def test_damaged_data_is_refused_or_true(tmp_path, content):
    only_true_examples(tmp_path / "data.jsonl", content)


@bounded(300)
@given(
    st.one_of(st.text("0123456789+-*() ", max_size=40), st.text(max_size=10)),
    st.one_of(st.text("-0123456789", max_size=5), st.text(max_size=5)),
)
@example("9" * 5000, "9")
@example("9999*" * 2000 + "1", "1")
@example("1+" * 5000 + "1", "5001")
@example("(" * 3000 + "1+1" + ")" * 3000, "2")
@example("1-\ud800", "1")
def test_any_expression_is_refused_or_true(tmp_path, expression, result):
    only_true_examples(tmp_path / "data.jsonl", json.dumps({"expression": expression, "result": result}).encode())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@bounded(200)
@given(st.one_of(VALUES, st.fixed_dictionaries({"expression": VALUES, "result": VALUES})))
@example({"expression": "1", "result": 10**5000})
def test_any_json_is_refused_or_true(tmp_path, value):
    with contextlib.suppress(ValueError):  # of integers that Python will not print either
        only_true_examples(tmp_path / "data.jsonl", json.dumps(value).encode())


def test_an_integer_of_too_many_digits_is_refused(tmp_path):
    assert read(read_examples, tmp_path / "data.jsonl", b'{"expression": "1", "result": %s}' % (b"1" * 5000)) is None


@pytest.mark.parametrize(
    "surprise",
    [
        *(
            "2020-02-30",
            "2001-12-14 99:99:99",
            "1e999",
            "0b",
            "9" * 5000,
            "0x" + "f" * 5000,
            "~",
            "{",
            "!<",
            "%TAG ! x",
        ),
        *("!!python/object:os.system ls", "!!binary x", "!!int x", "*a", "<<: *a", "&a 1\n  b: &a 2", '"\\ud800"'),
        *("[" * 1000, "{a: " * 1000),
    ],
    ids=lambda surprise: surprise[:12],
)
def test_surprises_of_yaml_are_refused(tmp_path, surprise):
    for place in (b"seed: 1", b'operators: "+-*"', b"snapshot_epochs: [1, 2, 3, 5, 10, 15, 20]"):
        key = place.partition(b": ")[0]
        content = PARAMS.replace(place, key + b": " + surprise.encode(), 1)
        assert content != PARAMS
        assert read(load_params, tmp_path / "params.yaml", content) is None


@bounded(200)
@given(damaged(PARAMS))
def test_damaged_parameters_are_refused_or_valid(tmp_path, content):
    params = read(load_params, tmp_path / "params.yaml", content)
    assert params is None or Params.model_validate(params.model_dump()) == params


KEYS = [(section, key) for section, field in Params.model_fields.items() for key in field.annotation.model_fields]


@bounded(200)
@given(st.sampled_from(KEYS), st.one_of(VALUES, st.integers(-(2**80), 2**80)))
def test_any_value_of_a_parameter_is_refused_or_kept(tmp_path, key, value):
    section, name = key
    content = json.loads(json.dumps(load_params(ROOT / "params.yaml").model_dump()))
    content[section][name] = value
    params = read(load_params, tmp_path / "params.yaml", json.dumps(content).encode())
    assert params is None or getattr(getattr(params, section), name) == value


@pytest.fixture
def checkpoint(small_model, tmp_path):
    """The bytes of a checkpoint, and a test that other bytes are refused or hold the same weights."""
    whole = checkpoint_bytes(small_model, epoch=1)

    def refused_or_the_same(content: bytes) -> None:
        model = read(load_model, tmp_path / "model.pt", content)
        if model is not None:
            assert model.config == small_model.config
            for name, weights in model.state_dict().items():
                assert torch.equal(weights, small_model.state_dict()[name]), name

    return whole, refused_or_the_same


@bounded(300)
@given(st.data())
def test_a_damaged_checkpoint_is_refused_or_the_same(checkpoint, data):
    whole, refused_or_the_same = checkpoint
    refused_or_the_same(data.draw(damaged(whole)))


def test_each_bit_that_can_change_a_weight_is_guarded(checkpoint, small_model):
    whole, refused_or_the_same = checkpoint
    start = whole.find(small_model.unembed.weight.detach().numpy().tobytes())
    assert start > 0
    for bit in range(0, 8 * small_model.unembed.weight.nbytes, 37):
        content = bytearray(whole)
        content[start + bit // 8] ^= 1 << bit % 8
        refused_or_the_same(bytes(content))


class _Call:
    """A pickle that calls `function(*arguments)` where it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [exec, eval, compile, __import__, print, open])
def test_foreign_pickles_are_not_executed(checkpoint, tmp_path, protocol, function):
    whole, _ = checkpoint
    mark = tmp_path / "executed"
    arguments = {exec: [f"open({str(mark)!r}, 'w')"], open: [str(mark), "w"]}.get(function, ["1"])
    call = pickle.dumps({"config": {}, "model": _Call(function, *arguments)}, protocol)
    in_archive = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as ours, zipfile.ZipFile(in_archive, "w") as theirs:
        for name in ours.namelist():
            theirs.writestr(name, call if name.endswith("data.pkl") else ours.read(name))
    for content in (call, in_archive.getvalue()):
        assert read(load_model, tmp_path / "model.pt", content) is None
        assert not mark.exists()


@bounded(100)
@given(st.sampled_from(["n_layers", "n_heads", "d_model", "d_mlp", "context", "vocab_size"]), VALUES)
def test_a_checkpoint_of_any_other_config_is_refused(small_model, tmp_path, name, value):
    config = {**vars(small_model.config), name: value}
    if value != getattr(small_model.config, name) and not (isinstance(value, int) and value > 100):
        content = pack({"config": config, "model": small_model.state_dict()})
        assert read(load_model, tmp_path / "model.pt", content) is None


@bounded(25)
@given(params=st.just(PARAMS) | damaged(PARAMS), data=damaged(DATA))
def test_a_stage_refuses_damage_with_one_line_and_writes_nothing(tmp_path, params, data):
    config, folder, output = tmp_path / "params.yaml", tmp_path / "data", tmp_path / "out"
    config.write_bytes(params)
    folder.mkdir(exist_ok=True)
    for name in ("train", "val", "test_flat", "test_paren"):
        (folder / f"pilot_{name}.jsonl").write_bytes(data if name == "test_paren" else DATA)
    if read(load_params, config, params) and read(read_examples, folder / "pilot_test_paren.jsonl", data):
        return
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        status = train.main(["--config", str(config), "--data-dir", str(folder), "--output-dir", str(output)])
    assert status == 2
    assert error.getvalue().startswith("error: ")
    assert error.getvalue().count("\n") == 1
    assert not output.exists()
