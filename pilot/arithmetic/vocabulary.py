"""Vocabulary: one token a character, and one marker that opens and closes every sequence.

A line `1+2=3` is the sequence ``<end> 1 + 2 = 3 <end>``. As in GPT-2 one marker serves at both ends: in
front it gives attention heads a position to rest on, behind it is what the model must answer last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsInt

import numpy as np

from pilot.errors import PilotError

CHARACTERS = "0123456789+-*()="
END = len(CHARACTERS)
VOCAB_SIZE = len(CHARACTERS) + 1
EQUALS = CHARACTERS.index("=")

_ID_OF = {character: i for i, character in enumerate(CHARACTERS)}
_ID_OF_BYTE = np.full(256, -1, dtype=np.int64)
_ID_OF_BYTE[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS))


def encode(text: str) -> list[int]:
    """Opening marker and the characters of `text`: what the model reads. `len(text) + 1` ids.

    The closing marker is not added, so `encode("1+2=")` is a prompt that the model can complete.
    Raises PilotError for a character outside the vocabulary.
    """
    try:
        return [END, *(_ID_OF[character] for character in text)]
    except KeyError as missing:
        raise _outside(missing.args[0], text) from None


def decode(ids: Iterable[SupportsInt]) -> str:
    """The characters of `ids`, markers left out; the inverse of `encode`. Raises PilotError for an unknown id."""
    tokens = [int(i) for i in ids]
    for i in tokens:
        if not 0 <= i < VOCAB_SIZE:
            raise PilotError(f"token {i} is not in the vocabulary of {VOCAB_SIZE}")
    return "".join(CHARACTERS[i] for i in tokens if i != END)


def encode_lines(lines: list[str]) -> np.ndarray:
    """Complete sequences, both markers included, of N lines of one length L: (N, L + 2) int64.

    Raises PilotError for a character outside the vocabulary.
    """
    length = len(lines[0])
    characters = np.frombuffer("".join(lines).encode("latin-1", "replace"), dtype=np.uint8)
    ids = np.full((len(lines), length + 2), END, dtype=np.int64)
    ids[:, 1:-1] = _ID_OF_BYTE[characters].reshape(len(lines), length)
    if ids.min() < 0:
        row, column = np.argwhere(ids < 0)[0]
        raise _outside(lines[row][column - 1], lines[row])
    return ids


def _outside(character: str, text: str) -> PilotError:
    return PilotError(f"character {character!r} in {text!r} is not in the vocabulary {CHARACTERS}")
