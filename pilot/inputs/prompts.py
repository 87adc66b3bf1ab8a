"""Prompts with their right answers as token ids, and batches of them under teacher forcing.

A prompt is run followed by an answer, its own or another's, so that every token of the answer is predicted from the
ones before it. All of them predicted right is the same as greedy decoding giving the whole answer.

Shapes: N rows of one length, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Prompt(NamedTuple):
    """A prompt and its right answer: an end marker belongs to the answer where the task has one."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def seq_len(self) -> int:
        """Positions of the prompt's run: the last token of the answer is predicted, not read."""
        return len(self.ids) + len(self.answer) - 1


@dataclass(frozen=True, eq=False)
class Batch:
    """Runs of one length: each a prompt followed by an answer.

    index     (N,)          where each prompt stood in the list that was batched
    inputs    (N, T) int64  what the model reads: the prompt and the answer without its last token
    targets   (N, T) int64  the token that follows each input
    answer    (N, T) bool   the targets that belong to the answer
    """

    index: np.ndarray
    inputs: Tensor
    targets: Tensor
    answer: Tensor

    @property
    def answer_positions(self) -> Tensor:
        """The last positions, as many as the longest answer has tokens: (N, R) int64."""
        rows, seq = self.answer.shape
        return torch.arange(seq - int(self.answer.sum(1).max()), seq).expand(rows, -1)


def batches_by_length(prompts: Sequence[Prompt], answers: Sequence[tuple[int, ...]] | None = None) -> list[Batch]:
    """The runs of all prompts, in batches of one length each, shortest first; inside a batch in the order given.

    answers   what the prompts are followed by, one for each; None: their own answers
    """
    if answers is None:
        answers = [prompt.answer for prompt in prompts]
    lines = [(*prompt.ids, *answer) for prompt, answer in zip(prompts, answers, strict=True)]
    by_length: dict[int, list[int]] = {}
    for i, line in enumerate(lines):
        by_length.setdefault(len(line), []).append(i)
    batches = []
    for length, index in sorted(by_length.items()):
        ids = torch.tensor([lines[i] for i in index])
        starts = torch.tensor([len(prompts[i].ids) - 1 for i in index])  # the answer's first token is predicted here
        answer = torch.arange(length - 1) >= starts[:, None]
        batches.append(Batch(np.array(index), ids[:, :-1], ids[:, 1:], answer))
    return batches


def gives_answer(predicted: Tensor, targets: Tensor, answer: Tensor) -> Tensor:
    """Whether every token of each row's answer is predicted: (N, R), (N, R) and (N, R) bool -> (N,) bool."""
    return ((predicted == targets) | ~answer).all(1)
