"""The sections of language/params.yaml that say which model is analysed, and on which pairs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pilot.runtime.schema import Section, Seed


class WeightsParams(Section):
    """`path`, a Hugging Face folder or a GGUF file; where it is null, a file of a Python package."""

    path: str | None
    package: Annotated[str, Field(pattern=r"^[\w.-]+==[\w.]+$")]
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PairsParams(Section):
    """Of each task that the project makes; a file of one's own is taken whole."""

    seed: Seed
    per_split: Annotated[int, Field(ge=2)]
