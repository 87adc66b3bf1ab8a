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
        return last_positions(self.answer)

    def answers_at(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """`targets` and `answer` at these positions: read (N, R) -> (N, R) each."""
        return self.targets.gather(1, read), self.answer.gather(1, read)


def last_positions(answer: Tensor) -> Tensor:
    """The last positions of every row, enough to hold all that `answer` (N, T) bool marks: (N, R) int64."""
    rows, seq = answer.shape
    return torch.arange(seq - int(answer.sum(1).max()), seq).expand(rows, -1)


def make_batch(
    prompts: Sequence[Prompt], index: Sequence[int], length: int, answers: Sequence[tuple[int, ...]] | None = None
) -> Batch:
    """The runs of the prompts of these numbers, cut to `length` positions where they are longer.

    answers   what the prompts are followed by, one for each; None: their own answers

    Attention is causal, so a run cut short has the head outputs of the whole run, cut.
    """
    followed_by = [prompt.answer for prompt in prompts] if answers is None else answers
    ids = torch.tensor([(*prompts[i].ids, *followed_by[i])[: length + 1] for i in index])
    starts = torch.tensor([len(prompts[i].ids) - 1 for i in index])  # the answer's first token is predicted here
    return Batch(np.array(index), ids[:, :-1], ids[:, 1:], torch.arange(length) >= starts[:, None])


def batches_by_length(prompts: Sequence[Prompt], answers: Sequence[tuple[int, ...]] | None = None) -> list[Batch]:
    """The runs of all prompts in batches of one length each, shortest first; inside a batch in the order given.

    answers   as for `make_batch`
    """
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        length = len(prompt.ids) + len(prompt.answer if answers is None else answers[i]) - 1
        by_length.setdefault(length, []).append(i)
    return [make_batch(prompts, index, length, answers) for length, index in sorted(by_length.items())]


def gives_answer(predicted: Tensor, targets: Tensor, answer: Tensor) -> Tensor:
    """Whether every token of each row's answer is predicted: (N, R), (N, R) and (N, R) bool -> (N,) bool."""
    return ((predicted == targets) | ~answer).all(1)
