"""What counts as a right answer.

Shapes: B rows, T positions, V vocabulary. `answer` marks the T targets that belong to the answer, its end
marker included. Answers are scored under teacher forcing: each answer token is predicted from the true ones
before it. All of them right is the same as greedy decoding giving the whole answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pilot.arithmetic.examples import Bucket

METRICS = ("exact_match", "last_digit", "final_token")


@dataclass(frozen=True)
class Scores:
    """(B,) bool for each way to count.

    exact_match   every token of the answer, end marker included
    last_digit    the digit before the end marker
    final_token   the end marker alone: the guide's metric. A model learns early how long answers are, so it is
                  right for most wrong answers too; reported to show that, and never used to choose
    """

    exact_match: torch.Tensor
    last_digit: torch.Tensor
    final_token: torch.Tensor


def score(predicted: torch.Tensor, targets: torch.Tensor, answer: torch.Tensor) -> Scores:
    """predicted, targets (B, T) int64 and answer (B, T) bool; every row ends with its answer's end marker.

    The last positions of each row, down to its answer, are enough.
    """
    right = predicted == targets
    return Scores((right | ~answer).all(1), right[:, -2], right[:, -1])


@torch.no_grad()
def score_model(model: nn.Module, buckets: list[Bucket], batch_size: int = 512) -> Scores:
    """Score all examples, in the order of the list that was bucketed: (N,) bool on the CPU for each metric."""
    device = next(model.parameters()).device
    total = sum(len(bucket) for bucket in buckets)
    result = Scores(*(torch.zeros(total, dtype=torch.bool) for _ in METRICS))
    for bucket in buckets:
        for rows in torch.split(torch.arange(len(bucket)), batch_size):
            predicted = model(bucket.inputs[rows].to(device)).argmax(-1).cpu()
            scores = score(predicted, bucket.targets[rows], bucket.answer[rows])
            for metric in METRICS:
                getattr(result, metric)[bucket.index[rows]] = getattr(scores, metric)
    return result
