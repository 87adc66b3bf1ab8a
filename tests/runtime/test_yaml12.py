"""What is read of a YAML file is what DVC's reader reads of it, and what is refused is refused with its line."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from support.project import ROOT

from pilot.errors import PilotError
from pilot.runtime.yaml12 import parse_yaml

NUMBERS, WORDS, REFUSED = (
    text.split()
    for text in (
        "0 1 -3 +1 017 08 0x1F 0o17 1. 1.5 .5 -.5 1e3 1e-3 1.5E+3 .5e-3 .inf -.INF .nan",
        """yes on Off y null ~ true FALSE tRUE text +-* a:b 0:6 1:30 .5e3 9lives '' '1' "0x1F" "\\u00e9" """,
        "1_000 1__ _ ._ 0b11 -0x1F 0o1_0 0x_ -1_0.5 1e_3 2020-01-01 2020-1-1 2001-12-14t21:59:43.10-05:00 :b ?b",
    )
)
SCALARS = st.sampled_from(["", *NUMBERS, *WORDS, *REFUSED]) | st.text("0123456789.+-_eExoabfn:~", max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda values: (
        st.lists(values, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(SCALARS, values, max_size=3).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=6,
)


def dvc_reads(text: str) -> object:
    with warnings.catch_warnings(action="error"):
        return YAML(typ="safe", pure=True).load(text)


@settings(max_examples=500, derandomize=True)
@given(st.lists(VALUES, min_size=1, max_size=3))
@example(NUMBERS)
@example(WORDS)
@example(["[0::]", "[E:]", "{E:}", '{"a":1}', "&b:c", "[a, :b]"])
def test_what_is_read_is_what_dvc_reads(values):
    text = "".join(f"key_{i}: {value}\n" for i, value in enumerate(values))
    try:
        found = parse_yaml(text, "params.yaml")
    except PilotError:
        return
    assert repr(found) == repr(dvc_reads(text)), "repr tells 1 from 1.0 and from True, and one NaN is like another"


@pytest.mark.parametrize("text", NUMBERS + WORDS)
def test_ordinary_scalars_are_read(text):
    assert repr(parse_yaml(f"a: {text}", "params.yaml")) == repr(dvc_reads(f"a: {text}"))


def test_the_project_s_own_files_are_read():
    for name in ("params.yaml", "dvc.yaml"):
        text = (ROOT / name).read_text()
        assert parse_yaml(text, name) == dvc_reads(text)


@pytest.mark.parametrize("text", REFUSED)
def test_what_programs_read_differently_is_refused(text):
    message = f'params.yaml:2: {text} is read differently by different programs; write "{text}" if text is meant'
    with pytest.raises(PilotError) as error:
        parse_yaml(f"a: 1\nb: {text}\n", "params.yaml")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 'params.yaml:3: duplicate key "a", first on line 1'),
        ("a:\n  x: 1\n  x: 1\n", 'params.yaml:3: duplicate key "x", first on line 2'),
        ("a: &one 1\nb: &one 2\n", "params.yaml:2: duplicate anchor one"),
        ("a: 1\nb: !!int 3\n", "params.yaml:2: remove the tag tag:yaml.org,2002:int: tags are not read"),
        ("a: !!python/object/apply:os.system [ls]\n", "params.yaml:1: remove the tag tag:yaml.org,2002:python/object"),
        ("a: &one {x: 1}\nb:\n  <<: *one\n", "params.yaml:3: << is read differently by different programs"),
        ("a: 1\nb: [c:]\n", "params.yaml:2: a colon behind a key takes a space behind it"),
        ("a: 1\nb: [0::]\n", "params.yaml:2: a colon behind a key takes a space behind it"),
        ("a: &one:b\n", "params.yaml:1: :b is read differently by different programs"),
        ("a: 1\n2: 3\n", "params.yaml:2: the key 2 is not text; quote it"),
        ("a: 1\nb: [2\n", "params.yaml:3: not YAML (expected ',' or ']', but got '<stream end>')"),
        ("a: 1\nb: *c\n", "params.yaml:2: not YAML (found undefined alias 'c')"),
        ("a: 1\nb: \x07\n", "params.yaml:2: not YAML (it holds the character U+0007)"),
        ("a: 1\n---\nb: 2\n", "params.yaml:2: not YAML (but found another document)"),
        ("%YAML 1.1\n---\na: on\n", "params.yaml:1: the file asks for another version than YAML 1.2"),
        ('a: "\\U00110000"\n', "params.yaml: not YAML (chr() arg not in range(0x110000))"),
        ("a: " + "[" * 5000, "params.yaml: not YAML that can be read (it is nested too deeply)"),
        ("a: " + "9" * 5000, "params.yaml:1: Exceeds the limit"),
    ],
)
def test_a_refusal_names_line_and_reason(text, message):
    with pytest.raises(PilotError) as error:
        parse_yaml(text, "params.yaml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_file_that_dvc_has_rewritten_is_read(tmp_path):
    """As `dvc exp run -S` does, with ruamel.yaml, which drops quotes that YAML 1.2 does not need."""
    text = (ROOT / "params.yaml").read_text()
    yaml = YAML()
    yaml.dump(yaml.load(text), tmp_path / "params.yaml")
    rewritten = (tmp_path / "params.yaml").read_text()
    assert rewritten != text
    assert parse_yaml(rewritten, "params.yaml") == parse_yaml(text, "params.yaml")


def test_an_alias_is_read():
    assert parse_yaml("a: &one [1, 2]\nb: *one\n", "params.yaml") == {"a": [1, 2], "b": [1, 2]}
