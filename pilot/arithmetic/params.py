"""Section `data` of params.yaml: which expressions there are and how many are drawn."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pilot.arithmetic.edits import EDITS
from pilot.arithmetic.grammar import OPERATORS, Grammar
from pilot.runtime.schema import Count, Section, Seed


def _operators(value: str) -> str:
    if not value or not set(value) <= set(OPERATORS) or len(set(value)) != len(value):
        raise ValueError(f"must hold some of {' '.join(OPERATORS)}, each once")
    return value


class DataParams(Section):
    seed: Seed
    max_operand: Annotated[int, Field(ge=1, le=9999)]
    operators: Annotated[str, AfterValidator(_operators)]
    min_operands: Annotated[int, Field(ge=2)]
    max_operands: Annotated[int, Field(ge=3, le=6)]
    train_size: Count
    flat_fraction: Annotated[float, Field(ge=0, le=1)]
    val_size: Count
    test_size: Annotated[int, Field(ge=2, lt=2**31)]  # both halves need a line
    pairs_per_edit: Annotated[int, Field(ge=2)]
    held_out_share: Annotated[float, Field(gt=0, lt=0.5)]  # for evaluation; the pairs take as much again
    tries_per_pair: Count

    @model_validator(mode="after")
    def _consistent(self) -> DataParams:
        if self.min_operands > self.max_operands:
            raise ValueError("min_operands must not be larger than max_operands")
        most = int(2 * len(EDITS) / self.held_out_share)
        if self.tries_per_pair > most:
            raise ValueError(f"tries_per_pair must be at most {most} with held_out_share {self.held_out_share}")
        return self

    def pairs_among(self, count: int) -> int:
        """How many pairs of one edit may be drawn where there are `count` expressions."""
        return int(count * self.held_out_share / (2 * len(EDITS)))

    @property
    def grammar(self) -> Grammar:
        return Grammar(self.max_operand, self.operators, self.min_operands, self.max_operands)
