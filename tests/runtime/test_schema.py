from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from pilot.errors import PilotError
from pilot.runtime.schema import Count, Rate, Section, Share, load_section

FILE = """\
cooking:
  minutes: 30
  heat: 1e-2
  salted: true
  vessel: pan
  spices: [pepper]
eating:
  minutes: 10
"""


class Cooking(Section):
    minutes: Count
    heat: Rate
    salted: bool
    vessel: Literal["pan", "pot"]
    spices: list[Annotated[str, Field(pattern=r"^\w+$")]]

    @model_validator(mode="after")
    def _possible(self):
        if self.vessel == "pot" and self.minutes < 5:
            raise ValueError("a pot takes at least 5 minutes")
        return self


class Eating(Section):
    share: Share


@pytest.fixture
def path(tmp_path):
    (tmp_path / "params.yaml").write_text(FILE)
    return tmp_path / "params.yaml"


def test_a_section_is_read_as_it_is_typed(path):
    section = load_section(path, "cooking", Cooking)
    assert section == Cooking(minutes=30, heat=0.01, salted=True, vessel="pan", spices=["pepper"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  minutes: 30", "  minute: 30", r"cooking.minute is not a known key; did you mean minutes\?"),
        ("  minutes: 30", "  weather: 30", "cooking.weather is not a known key; known: minutes, heat"),
        ("  heat: 1e-2\n", "", "cooking.heat is missing"),
        ("minutes: 30", "minutes: three", "cooking.minutes: must be a valid integer, not 'three'"),
        ("minutes: 30", 'minutes: "30"', "cooking.minutes: must be a valid integer, not '30'"),
        ("minutes: 30", "minutes: true", "cooking.minutes: must be a valid integer, not True"),
        ("minutes: 30", "minutes: 30.0", "cooking.minutes: must be a valid integer, not 30.0"),
        ("minutes: 30", "minutes: 0", "cooking.minutes: must be greater than or equal to 1, not 0"),
        ("minutes: 30", "minutes: 0x1" + "0" * 4000, "cooking.minutes: .*not an integer of thousands of digits"),
        ("heat: 1e-2", "heat: .nan", "cooking.heat: must be a finite number"),
        ("salted: true", "salted: on", "cooking.salted: must be a valid boolean, not 'on'"),
        ("vessel: pan", "vessel: bowl", "cooking.vessel: must be 'pan' or 'pot', not 'bowl'"),
        ("[pepper]", '[pepper, "a b"]', r"cooking.spices.1: .*not 'a b'"),
        (
            "minutes: 30\n  heat: 1e-2\n  salted: true\n  vessel: pan",
            "minutes: 3\n  heat: 1\n  salted: true\n  vessel: pot",
            "cooking: a pot takes at least 5 minutes",
        ),
        ("  minutes: 30", "  minutes: 30\n  minutes: 31", 'duplicate key "minutes", first on line 2'),
        ("cooking:", "coking:", r"section cooking is missing; is coking a misspelling\?"),
        ("cooking:", "planting:", "section cooking is missing$"),
        ("cooking:\n", "cooking: 5\nrest:\n", "cooking: must be a valid dictionary or instance of Cooking, not 5"),
    ],
)
def test_a_bad_key_is_named(path, old, new, message):
    assert old in FILE
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(PilotError, match=message) as error:
        load_section(path, "cooking", Cooking)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_only_the_section_asked_for_is_looked_at(path):
    assert load_section(path, "cooking", Cooking).minutes == 30
    with pytest.raises(PilotError, match=r"eating\.minutes is not a known key"):
        load_section(path, "eating", Eating)


@pytest.mark.parametrize("content", [b"", b"5", b"\xff\xfe", b"- a"])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(PilotError, match=r"params\.yaml"):
        load_section(path, "cooking", Cooking)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PilotError, match=r"nowhere.yaml: no such file"):
        load_section(tmp_path / "nowhere.yaml", "cooking", Cooking)
