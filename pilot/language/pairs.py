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
from typing import TYPE_CHECKING

from pilot.errors import PilotError
from pilot.inputs.pairs import SPLITS, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.runtime.files import read_text, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Why a pair is left out.
UNEQUAL_LENGTHS = "its two prompts have different numbers of tokens"
MERGED = "an answer's first token reaches into the prompt"
ANSWERS_DO_NOT_PART = "its answers are the same tokens, or one is the start of the other"
TOO_LONG = "it is longer than the model's context"


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two prompts and the answers that continue them, spaces included."""

    clean: str
    corrupt: str
    clean_answer: str
    corrupt_answer: str
    edit: str
    split: str


def write_text_pairs(path: Path | str, pairs: Sequence[TextPair]) -> None:
    """One JSON object a line, whole or not at all. Raises PilotError if the file cannot be written."""
    write_text(path, "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs))


def read_text_pairs(path: Path | str) -> list[TextPair]:
    """All pairs of a JSON-lines file. Raises PilotError, naming file and line, for a line that is no pair."""
    pairs = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            try:
                pairs.append(_parse(json.loads(line)))
            except json.JSONDecodeError as error:
                raise PilotError(f"{path}:{number}: not JSON ({error.msg})") from None
            except PilotError as error:
                raise PilotError(f"{path}:{number}: {error}") from None
    if not pairs:
        raise PilotError(f"{path}: holds no pairs")
    return pairs


def _parse(record: object) -> TextPair:
    names = [field.name for field in fields(TextPair)]
    if not isinstance(record, dict) or set(record) != set(names):
        raise PilotError(f"want an object with the keys {', '.join(names)}")
    for name in names:
        if not isinstance(record[name], str) or not record[name]:
            raise PilotError(f'"{name}" must be text, not {json.dumps(record[name])}')
    if record["split"] not in SPLITS:
        raise PilotError(f'"split" must be one of {", ".join(SPLITS)}, not {json.dumps(record["split"])}')
    return TextPair(**record)


def tokenised(
    pairs: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase, context: int
) -> tuple[list[TextPair], list[TokenPair], Counter[str]]:
    """The pairs that can be patched, as text and as tokens, and how many were left out for which reason.

    context   the positions of the model

    A wrong donor is drawn among pairs of the same edit and prompt length. Tokens that a tokenizer puts in front of
    every text, such as a beginning-of-sequence marker, are kept.
    """
    kept: list[TextPair] = []
    tokens: list[TokenPair] = []
    left_out: Counter[str] = Counter()
    for pair in pairs:
        try:
            clean, corrupt = (
                _prompt(tokenizer, text, answer)
                for text, answer in ((pair.clean, pair.clean_answer), (pair.corrupt, pair.corrupt_answer))
            )
            if len(clean.ids) != len(corrupt.ids):
                raise _LeftOut(UNEQUAL_LENGTHS)
            shared = min(len(clean.answer), len(corrupt.answer))
            if clean.answer[:shared] == corrupt.answer[:shared]:
                raise _LeftOut(ANSWERS_DO_NOT_PART)
            if max(clean.seq_len, corrupt.seq_len) > context:
                raise _LeftOut(TOO_LONG)
        except _LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        kept.append(pair)
        tokens.append(TokenPair(clean, corrupt, pair.edit, pair.split, bucket=pair.edit))
    return kept, tokens, left_out


class _LeftOut(Exception):
    """Why a pair cannot be patched."""


def _prompt(tokenizer: PreTrainedTokenizerBase, text: str, answer: str) -> Prompt:
    """The answer's tokens are those that follow the prompt's own when both are tokenised together."""
    ids, whole = (tuple(tokenizer(part)["input_ids"]) for part in (text, text + answer))
    end = len(ids)
    if whole[:end] != ids:
        raise _LeftOut(MERGED)
    return Prompt(ids, whole[end:])
