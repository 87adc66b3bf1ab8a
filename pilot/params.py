"""params.yaml as frozen, typed objects. Every key must be there, known and well typed."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML

from pilot.errors import PilotError
from pilot.expressions import OPERATORS, Grammar
from pilot.files import read_text

Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, lt=1e3)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _operators(value: str) -> str:
    if not value or not set(value) <= set(OPERATORS) or len(set(value)) != len(value):
        raise ValueError(f"must hold some of {' '.join(OPERATORS)}, each once")
    return value


class DataParams(_Section):
    seed: Seed
    max_operand: Annotated[int, Field(ge=1, le=9999)]
    operators: Annotated[str, AfterValidator(_operators)]
    min_operands: Annotated[int, Field(ge=2)]
    max_operands: Annotated[int, Field(ge=3, le=6)]
    train_size: Count
    flat_fraction: Annotated[float, Field(ge=0, le=1)]
    val_size: Count
    test_size: Count
    pairs_per_edit: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _ordered(self):
        if self.min_operands > self.max_operands:
            raise ValueError("min_operands must not be larger than max_operands")
        return self

    @property
    def grammar(self) -> Grammar:
        return Grammar(self.max_operand, self.operators, self.min_operands, self.max_operands)


class ModelParams(_Section):
    n_layers: Count
    n_heads: Count
    d_model: Count
    d_mlp: Count


class TrainParams(_Section):
    seed: Seed
    num_epochs: Count
    examples_per_epoch: Count
    batch_size: Count
    muon_lr: Rate
    adamw_lr: Rate
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)]
    snapshot_epochs: list[Count]


class SweepParams(_Section):
    impl: Literal["auto", "fused", "eager", "reference"]


class AblateParams(_Section):
    seed: Seed
    resamples: Annotated[int, Field(ge=100)]


class SelectParams(_Section):
    ablation: Literal["zero", "mean", "resample"]
    top_k: Count
    min_impact: Annotated[float, Field(ge=0, le=1)]


class PatchParams(_Section):
    seed: Seed
    metric: Literal["exact_match", "final_token"]
    donors_per_recipient: Count
    position_ranges: list[Annotated[str, Field(pattern=r"^\d*:\d*$")]]
    min_logit_gap: Annotated[float, Field(gt=0)]
    random_sets: Count
    resamples: Annotated[int, Field(ge=100)]
    min_effect: Annotated[float, Field(ge=0, le=1)]
    min_interaction: Annotated[float, Field(ge=0, le=1)]
    exhaustive: bool
    exhaustive_pairs: Annotated[int, Field(ge=2)]


class Params(_Section):
    """All of params.yaml; the sections carry the comments there."""

    data: DataParams
    model: ModelParams
    train: TrainParams
    sweep: SweepParams
    ablate: AblateParams
    select: SelectParams
    patch: PatchParams


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check a params file, as YAML 1.2 like DVC itself.

    Raises PilotError that names the key for one that is missing, unknown, given twice, ill-typed or out of range.
    """
    text = read_text(path)
    try:
        with warnings.catch_warnings(action="error"):  # of an anchor given twice
            content = YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # a YAMLError, or what reading a wrong date, number or tag happens to raise
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise PilotError(f"{path}{where}: not YAML ({problem})") from None
    if not isinstance(content, dict):
        raise PilotError(f"{path}: want sections {', '.join(Params.model_fields)}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise PilotError(f"{path}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    # An unknown key comes first: it is often the misspelt name of a missing one.
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    *parents, last = problem["loc"]
    key = " ".join(".".join(map(str, problem["loc"])).split())
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "extra_forbidden":
        known = list((Params.model_fields[parents[0]].annotation if parents else Params).model_fields)
        close = difflib.get_close_matches(str(last), known, n=1)
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
