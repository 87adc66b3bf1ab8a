"""Counterfactual pairs: two prompts of one length that one edit tells apart, with different answers.

In a denoising run the corrupt prompt is patched with head outputs of the clean one (are they sufficient for the clean
answer?), in a noising run the other way round (are they necessary for it?): Heimersheim & Nanda 2024
(arXiv:2404.15255). Taking head outputs from another input of the same kind is Zhang & Nanda's symmetric token
replacement (arXiv:2309.16042).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import zip_longest

from pilot.errors import PilotError
from pilot.inputs.prompts import Prompt

SPLITS = ("select", "confirm")  # heads are chosen on the one and judged on the other
ROLES = {"denoising": ("corrupt", "clean"), "noising": ("clean", "corrupt")}  # (recipient, donor)
DIRECTIONS = tuple(ROLES)


@dataclass(frozen=True)
class TokenPair:
    """Two prompts of one length whose answers part at some token.

    edit     what tells the two apart; results are kept apart by it
    split    "select" or "confirm"
    bucket   pairs of one bucket, and of one prompt length, may serve as each other's wrong donor

    Raises PilotError for prompts that are equal or of unequal lengths, and for answers that part nowhere, that is for
    equal ones and for one that is the start of the other.
    """

    clean: Prompt
    corrupt: Prompt
    edit: str = ""
    split: str = "confirm"
    bucket: Hashable = None

    def __post_init__(self) -> None:
        lengths = len(self.clean.ids), len(self.corrupt.ids)
        if lengths[0] != lengths[1] or not lengths[0]:
            raise PilotError(
                f"the clean prompt has {lengths[0]} tokens and the corrupt one {lengths[1]}: both need the same "
                "number, so that their positions align"
            )
        if self.clean.ids == self.corrupt.ids:
            raise PilotError("the clean and the corrupt prompt are the same: there is nothing to patch")
        if self.clean.answer == self.corrupt.answer:
            raise PilotError("the clean and the corrupt answer are the same: there is nothing to tell them apart by")
        if self.answers_part >= min(len(self.clean.answer), len(self.corrupt.answer)):
            raise PilotError(
                "one answer is the start of the other, so they part at no position of the sequence: end both "
                "with a marker"
            )
        if self.split not in SPLITS:
            raise PilotError(f"split must be one of {', '.join(SPLITS)}, not {self.split!r}")

    @property
    def first_difference(self) -> int:
        """The first position where the prompts differ: before it their runs are the same."""
        tokens = enumerate(zip(self.clean.ids, self.corrupt.ids, strict=True))
        return next(i for i, (clean, corrupt) in tokens if clean != corrupt)

    @property
    def answers_part(self) -> int:
        """The first token of the answers at which they differ, counted from 0."""
        tokens = enumerate(zip_longest(self.clean.answer, self.corrupt.answer))
        return next(i for i, (clean, corrupt) in tokens if clean != corrupt)

    @property
    def contrast(self) -> int:
        """The position whose logits tell the two answers apart: up to it either answer gives the same run."""
        return len(self.clean.ids) - 1 + self.answers_part
