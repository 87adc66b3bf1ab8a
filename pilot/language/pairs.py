"""Pairs of text, and what a tokenizer makes of them.

A pair is two prompts that differ in one thing, and the answer that continues each:

    {"clean": "When Mary and John went to the store, John gave a drink to", "clean_answer": " Mary",
     "corrupt": "When Mary and John went to the store, Mary gave a drink to", "corrupt_answer": " John",
     "edit": "name", "split": "select"}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pilot.errors import PilotError
from pilot.inputs.pairs import SPLITS, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.runtime.files import write_text
from pilot.runtime.records import check_keys, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Why a pair is left out.
UNEQUAL_LENGTHS = "its two prompts have different numbers of tokens"
SAME_PROMPTS = "its two prompts are the same tokens"
MERGED = "the tokens of a prompt change when the answer follows it"
ANSWERS_DO_NOT_PART = "its answers are the same tokens, or one is the start of the other"
TOO_LONG = "it is longer than the model's context"


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two prompts and the answers that continue them, spaces included.

    edit       what tells the two apart
    split      "select" or "confirm"
    template   the wording, by name: pairs of one template and length align position by position; may be left out
    """

    clean: str
    corrupt: str
    clean_answer: str
    corrupt_answer: str
    edit: str
    split: str
    template: str = ""


def write_text_pairs(path: Path | str, pairs: Sequence[TextPair]) -> None:
    """One JSON object a line, whole or not at all. Raises PilotError if the file cannot be written."""
    write_text(path, "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs))


def read_text_pairs(path: Path | str) -> list[TextPair]:
    """All pairs of a JSON-lines file. Raises PilotError, naming file and line, for a line that is no pair."""
    return read_records(path, _parse, "pairs")


def _parse(record: object) -> TextPair:
    template = ""
    if isinstance(record, dict):
        template = record.get("template", "")
        record = {key: value for key, value in record.items() if key != "template"}
    values = check_keys(record, *(field.name for field in fields(TextPair) if field.name != "template"))
    for name, value in [*values.items(), ("template", template)]:
        if not _is_text(value) and (name, value) != ("template", ""):
            raise PilotError(f'"{name}" must be text, not {json.dumps(value)}')
    if values["split"] not in SPLITS:
        raise PilotError(f'"split" must be one of {", ".join(SPLITS)}, not {json.dumps(values["split"])}')
    return TextPair(**values, template=template)


def _is_text(value: object) -> bool:
    """Whether it is a string that is not empty and holds no half of a surrogate pair."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= character <= "\udfff" for character in value)


class TokenisedPairs(NamedTuple):
    """The pairs that can be patched, as text and as tokens, and how many others there were for each reason."""

    text: list[TextPair]
    tokens: list[TokenPair]
    left_out: Counter[str]


def tokenised(pairs: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase, context: int | None) -> TokenisedPairs:
    """The pairs in the tokens of a model.

    context   the longest sequence that the model takes; None: any

    Markers that the tokenizer puts in front of every text are kept. Pairs of one edit, template and prompt length may
    serve as each other's wrong donor.
    """
    result = TokenisedPairs([], [], Counter())
    for pair in pairs:
        try:
            result.tokens.append(_token_pair(pair, tokenizer, context))
            result.text.append(pair)
        except _LeftOut as reason:
            result.left_out[str(reason)] += 1
    return result


class _LeftOut(Exception):
    """Why a pair cannot be patched."""


def _token_pair(pair: TextPair, tokenizer: PreTrainedTokenizerBase, context: int | None) -> TokenPair:
    clean = _prompt(tokenizer, pair.clean, pair.clean_answer)
    corrupt = _prompt(tokenizer, pair.corrupt, pair.corrupt_answer)
    if len(clean.ids) != len(corrupt.ids):
        raise _LeftOut(UNEQUAL_LENGTHS)
    if clean.ids == corrupt.ids:
        raise _LeftOut(SAME_PROMPTS)
    shared = min(len(clean.answer), len(corrupt.answer))
    if clean.answer[:shared] == corrupt.answer[:shared]:
        raise _LeftOut(ANSWERS_DO_NOT_PART)
    if context is not None and max(clean.seq_len, corrupt.seq_len) > context:
        raise _LeftOut(TOO_LONG)
    return TokenPair(clean, corrupt, pair.edit, pair.split, bucket=(pair.edit, pair.template))


def _prompt(tokenizer: PreTrainedTokenizerBase, text: str, answer: str) -> Prompt:
    """The answer's tokens are those that follow the prompt's own when both are tokenised together."""
    ids, whole = (tuple(tokenizer(part, verbose=False)["input_ids"]) for part in (text, text + answer))
    end = len(ids)
    if whole[:end] != ids:
        raise _LeftOut(MERGED)
    return Prompt(ids, whole[end:])
