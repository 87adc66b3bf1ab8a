"""Counterfactual pairs: two expressions that one edit tells apart, on disk and as runs to patch.

In a denoising run activations of the clean expression are put into the corrupt one's run (are they sufficient for
the clean answer?), in a noising run the other way round (are they necessary for it?); see Heimersheim & Nanda
(https://arxiv.org/abs/2404.15255). Replacing activations by those of another input of the same kind is Zhang &
Nanda's symmetric token replacement (https://arxiv.org/abs/2309.16042).

Shapes: N pairs of one length, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pilot.arithmetic.examples import Example, buckets_by_length
from pilot.arithmetic.pairs import CounterfactualPair
from pilot.arithmetic.vocabulary import END, encode, encode_lines

SPLITS = ("select", "confirm")  # heads are chosen on the one and judged on the other
ROLES = {"denoising": ("corrupt", "clean"), "noising": ("clean", "corrupt")}  # (recipient, donor)
DIRECTIONS = tuple(ROLES)


@dataclass(frozen=True)
class PairedRuns:
    """Recipient and donor runs of pairs of one length, both followed by "=" and the same answer.

    index             (N,)          where each pair stood in the list given
    recipient, donor  (N, T) int64  tokens that the model reads: the closing marker is cut off
    targets           (N, T) int64  the token that follows each input, in the complete line of the side whose own
                                    answer this is
    answer            (N, T) bool   the targets that belong to the answer, its end marker included
    contrast          (N,)   int64  the first position whose logits tell the two sides' answers apart; their end
                                    markers count, so "3" and "37" part at the second token
    donor_token       (N,)   int64  the donor's own answer there
    recipient_token   (N,)   int64  the recipient's own answer there
    """

    index: np.ndarray
    recipient: torch.Tensor
    donor: torch.Tensor
    targets: torch.Tensor
    answer: torch.Tensor
    contrast: torch.Tensor
    donor_token: torch.Tensor
    recipient_token: torch.Tensor


def paired_runs(pairs: Sequence[CounterfactualPair], direction: str, forced: str = "donor") -> list[PairedRuns]:
    """The runs of all pairs in buckets of one length each, shortest first.

    direction   "denoising": the recipient is the corrupt expression and the donor the clean one; "noising": reversed
    forced      whose answer both runs are teacher-forced with: "donor" asks whether the patched run gives the donor's
                answer, "recipient" whether it still gives its own

    Inside a bucket pairs stand by the first position where recipient and donor differ, then in the order given: what
    lies before is the same in both runs, so a sweep over neighbours can share it.
    """
    recipients, donors = ([getattr(pair, role) for pair in pairs] for role in ROLES[direction])
    answered = {"recipient": recipients, "donor": donors}[forced]
    runs = []
    for bucket in buckets_by_length(answered):
        recipient, donor = (_forced_inputs(side, answered, bucket.index) for side in (recipients, donors))
        first_difference = (recipient != donor).int().argmax(1)
        order = first_difference.argsort(stable=True)
        index = bucket.index[order.numpy()]
        contrast = torch.tensor([_contrast(recipients[i], donors[i]) for i in index])
        rows = (ids[order] for ids in (recipient, donor, bucket.targets, bucket.answer))
        runs.append(PairedRuns(index, *rows, *contrast.T))
    return runs


def _forced_inputs(examples: Sequence[Example], answered: Sequence[Example], index: np.ndarray) -> torch.Tensor:
    """What the model reads: the expressions of the examples in `index`, with the results of `answered`: (N, T)."""
    lines = [f"{examples[i].expression}={answered[i].result}" for i in index]
    return torch.from_numpy(encode_lines(lines))[:, :-1]


def _contrast(recipient: Example, donor: Example) -> tuple[int, int, int]:
    """The position whose logits first tell the two results apart, the donor's next token there and the recipient's."""
    donor_tokens, recipient_tokens = ([*encode(side.result)[1:], END] for side in (donor, recipient))
    tokens = enumerate(zip(donor_tokens, recipient_tokens, strict=False))
    shared = next(i for i, (donor_token, recipient_token) in tokens if donor_token != recipient_token)
    return len(donor.expression) + 1 + shared, donor_tokens[shared], recipient_tokens[shared]
