"""Sections of params.yaml as frozen, typed objects: every key must be there, known and well typed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pilot.errors import PilotError
from pilot.runtime.files import read_text
from pilot.runtime.yaml12 import parse_yaml

Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, lt=1e3)]  # a bound below 2**53, beyond which floats do not keep integers
Share = Annotated[float, Field(ge=0, le=1)]
Resamples = Annotated[int, Field(ge=100)]


class Section(BaseModel):
    """A section of params.yaml: its fields are the section's keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


SectionType = TypeVar("SectionType", bound=Section)


def load_section(path: Path | str, name: str, schema: type[SectionType]) -> SectionType:
    """Read and check the section `name` of a params file; the other sections are not looked at.

    Raises PilotError as `read_params` and `validated`.
    """
    content = read_params(path)
    if name not in content:
        close = difflib.get_close_matches(name, content, n=1)
        raise PilotError(f"{path}: section {name} is missing" + (f"; is {close[0]} a misspelling?" if close else ""))
    return validated(path, content[name], schema, name)


def validated(path: Path | str, content: Any, schema: type[SectionType], *prefix: str) -> SectionType:
    """`content`, found under the keys `prefix` in the file `path`, as a section.

    Raises PilotError that names the key for one that is missing, unknown, ill-typed or out of range.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise PilotError(f"{path}: {_first_problem(error, schema, prefix)}") from None


def read_params(path: Path | str) -> dict[str, Any]:
    """The sections of a params file, as DVC reads them; nothing in them is checked.

    Raises PilotError as `parse_yaml`, and for a file without sections.
    """
    content = parse_yaml(read_text(path), path)
    if not isinstance(content, dict):
        raise PilotError(f"{path}: holds no sections; compare it with the project's params.yaml")
    return content


def _first_problem(error: ValidationError, schema: type[Section], prefix: tuple[str, ...]) -> str:
    # An unknown key comes first: it is often the misspelt name of a missing one.
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    *parents, last = map(str, problem["loc"] or ("",))
    key = " ".join(".".join(map(str, (*prefix, *problem["loc"]))).split())
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "extra_forbidden":
        section: Any = schema.model_fields[parents[0]].annotation if parents else schema
        known = list(section.model_fields)
        close = difflib.get_close_matches(last, known, n=1)
        return f"{key} is not a known key; " + (f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}")
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return (
        f"{key}: {message}" if problem["type"] == "value_error" else f"{key}: {message}, not {_shown(problem['input'])}"
    )


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python refuses to print it
        return "an integer of thousands of digits"
