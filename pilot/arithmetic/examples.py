"""Examples on disk (JSON lines) and in memory (length buckets)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pilot.arithmetic.grammar import evaluate
from pilot.arithmetic.vocabulary import EQUALS, encode, encode_lines
from pilot.errors import PilotError
from pilot.runtime.files import write_text
from pilot.runtime.records import check_keys, read_records

# Heads are chosen on one half of a test file's lines and judged on the other.
HALVES = {"select": slice(0, None, 2), "confirm": slice(1, None, 2), "all": slice(None)}

_INTEGER = re.compile(r"-?(0|[1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Example:
    """An expression and its value, both as text: `Example("41-((65+69)-69)", "-24")`."""

    expression: str
    result: str

    @property
    def line(self) -> str:
        return f"{self.expression}={self.result}"

    @property
    def seq_len(self) -> int:
        """Tokens of the complete sequence, both markers included."""
        return len(self.line) + 2


def write_examples(path: Path | str, examples: list[Example]) -> None:
    """One `{"expression": ..., "result": ...}` a line."""
    write_text(path, "".join(f'{{"expression": "{e.expression}", "result": "{e.result}"}}\n' for e in examples))


def read_examples(path: Path | str, context: int | None = None) -> list[Example]:
    """All examples of a JSON-lines file, in order.

    context   the positions of the model that is to read them

    Raises PilotError, naming file and line, for a line that is not an example, whose result is not the
    expression's value, or that is too long for the context; and for a file that is missing or without examples.
    """
    return read_records(path, lambda record: parse_example(record, context), "examples", made_by="generate")


def parse_example(record: object, context: int | None = None) -> Example:
    """The example in one decoded record of a file. Raises PilotError as `read_examples` does, naming no line."""
    fields = check_keys(record, "expression", "result")
    for key, value in fields.items():
        if not isinstance(value, str):
            raise PilotError(f'"{key}" must be a string, not {json.dumps(value)}')
    example = Example(**fields)
    if not _INTEGER.fullmatch(example.result):
        raise PilotError(f'"result" must be a plain integer such as "-24", not {json.dumps(example.result)}')
    encode(example.expression)  # says which character is not in the vocabulary
    value = evaluate(example.expression)
    if str(value) != example.result:
        raise PilotError(f"{example.expression} is {value}, not {example.result}")
    if context is not None and example.seq_len - 1 > context:
        raise PilotError(
            f"{example.line} is {example.seq_len - 1} tokens long, more than the model's context of {context}; train a "
            "model on such expressions (data.max_operand, data.max_operands)"
        )
    return example


@dataclass(frozen=True)
class Bucket:
    """Examples of one sequence length, so that no batch needs padding.

    index   (N,)        where each example stood in the list that was bucketed
    ids     (N, L)      int64 tokens of the complete sequences, both markers included
    """

    index: np.ndarray
    ids: torch.Tensor

    @property
    def inputs(self) -> torch.Tensor:
        """What the model reads: (N, T), T = L - 1."""
        return self.ids[:, :-1]

    @property
    def targets(self) -> torch.Tensor:
        """The token that follows each input: (N, T)."""
        return self.ids[:, 1:]

    @property
    def answer(self) -> torch.Tensor:
        """(N, T) bool: the targets that belong to the answer, its end marker included."""
        is_equals = self.inputs == EQUALS
        return is_equals.cumsum(1) > 0

    def __len__(self) -> int:
        return len(self.ids)


def buckets_by_length(examples: list[Example]) -> list[Bucket]:
    """`examples` sorted into buckets of one length each, shortest first; order inside a bucket is kept."""
    members = defaultdict(list)
    for i, example in enumerate(examples):
        members[len(example.line)].append(i)
    return [
        Bucket(np.array(index), torch.from_numpy(encode_lines([examples[i].line for i in index])))
        for _, index in sorted(members.items())
    ]
