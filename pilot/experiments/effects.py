"""What patching does to counterfactual pairs: logit difference, KL divergence, and the answers that are given.

The logit difference (LD) is counted towards the donor: the logit of the donor's answer token less that of the
recipient's, at the first position where the two answers differ. Recovery is (LD patched - LD recipient) / (LD donor -
LD recipient), in either direction 0 where the patch does nothing and 1 where it does all (Zhang & Nanda,
arXiv:2309.16042).

Shapes: n interventions, P pairs, T positions, R positions that cover the answers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pilot.arithmetic.pairs import CounterfactualPair
from pilot.arithmetic.scoring import answer_positions
from pilot.arithmetic.vocabulary import EQUALS
from pilot.experiments.pairs import PairedRuns, paired_runs
from pilot.interventions import Intervention
from pilot.models.hooks import head_outputs
from pilot.models.transformer import PilotTransformer
from pilot.sweep import sweep

Donor = Callable[[PilotTransformer, PairedRuns], "Tensor | list[Tensor]"]


@dataclass(frozen=True)
class Effects:
    """Of n interventions on P pairs.

    ld             (n, P) of the patched runs
    kl             (n, P) nats, from the donor's distribution over tokens to the patched run's, where the answers part
    adopted        (n, P) bool, the patched run gives the donor's answer, every token of it
    kept           (n, P) bool, it still gives the recipient's own
    ld_recipient   (P,) of the unpatched runs
    ld_donor       (P,)
    """

    ld: np.ndarray
    kl: np.ndarray
    adopted: np.ndarray
    kept: np.ndarray
    ld_recipient: np.ndarray
    ld_donor: np.ndarray

    @property
    def change(self) -> np.ndarray:
        """LD patched - LD recipient, (n, P): what recovery has above the line."""
        return self.ld - self.ld_recipient

    @property
    def gap(self) -> np.ndarray:
        """LD donor - LD recipient, (P,): what recovery has below the line."""
        return self.ld_donor - self.ld_recipient


def own_donor(model: PilotTransformer, runs: PairedRuns) -> Tensor:
    """The pair's other side: the experiment itself."""
    return runs.donor


def wrong_donor(model: PilotTransformer, runs: PairedRuns) -> Tensor:
    """The donor of the next pair whose expression is as long: a control that carries no news of this pair.

    A pair that has no such neighbour keeps its own donor.
    """
    length = (runs.donor == EQUALS).int().argmax(1)
    donor = runs.donor.clone()
    for expression_length in length.unique():
        alike = (length == expression_length).nonzero().squeeze(1)
        donor[alike] = runs.donor[alike.roll(1)]
    return donor


def self_donor(model: PilotTransformer, runs: PairedRuns) -> list[Tensor]:
    """The recipient's own head outputs, put back as if they were another's: a control that must change nothing."""
    with torch.no_grad():
        return [z.cpu() for z in head_outputs(model, runs.recipient.to(model.unembed.weight.device))]


def measure_effects(
    model: PilotTransformer,
    pairs: Sequence[CounterfactualPair],
    direction: str,
    interventions: Sequence[Intervention],
    donor: Donor = own_donor,
    impl: str = "auto",
) -> Effects:
    """Run every intervention on every pair. `donor` is own_donor or one of the controls."""
    n, total = len(interventions), len(pairs)
    ld, kl = np.zeros((n, total)), np.zeros((n, total))
    adopted, kept = np.zeros((n, total), bool), np.zeros((n, total), bool)
    ld_recipient, ld_donor = np.zeros(total), np.zeros(total)
    for runs in paired_runs(pairs, direction):
        read = torch.cat([runs.contrast[:, None], answer_positions(runs.answer)], dim=1)
        of_donor = sweep(model, runs.donor, runs.donor, [()], read=read, impl=impl)[0]
        measure = _measures(runs, of_donor[:, 0].log_softmax(-1))
        ld_donor[runs.index] = measure(of_donor, torch.arange(len(read)))[:, 0]
        all_interventions = [(), *interventions]
        measured = sweep(
            model, runs.recipient, donor(model, runs), all_interventions, read=read, measure=measure, impl=impl
        )
        ld_recipient[runs.index] = measured[0, :, 0]
        ld[:, runs.index], kl[:, runs.index] = measured[1:, :, 0], measured[1:, :, 1]
        adopted[:, runs.index] = measured[1:, :, 2] > 0
    for runs in paired_runs(pairs, direction, forced="recipient"):
        read = answer_positions(runs.answer)
        given = sweep(
            model,
            runs.recipient,
            donor(model, runs),
            interventions,
            read=read,
            measure=lambda logits, pair, runs=runs: _gives_answer(logits, runs, pair)[:, None],
            impl=impl,
        )
        kept[:, runs.index] = given[..., 0]
    return Effects(ld, kl, adopted, kept, ld_recipient, ld_donor)


def logit_difference_changes(
    model: PilotTransformer,
    pairs: Sequence[CounterfactualPair],
    direction: str,
    interventions: Sequence[Intervention],
    impl: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """LD changes and gaps alone, as in Effects: (n, P) float32 and (P,). One position is read: sweeps are cheap."""
    change, gap = np.empty((len(interventions), len(pairs)), dtype=np.float32), np.empty(len(pairs))
    for runs in paired_runs(pairs, direction):
        read = runs.contrast[:, None]

        def measure(logits: Tensor, pair: Tensor, runs: PairedRuns = runs) -> Tensor:
            return _logit_difference(logits[:, 0], runs, pair)[:, None]

        unpatched = [
            sweep(model, ids, ids, [()], read=read, measure=measure, impl=impl)[0, :, 0]
            for ids in (runs.recipient, runs.donor)
        ]
        ld = sweep(model, runs.recipient, runs.donor, interventions, read=read, measure=measure, impl=impl)
        change[:, runs.index] = ld[..., 0] - unpatched[0]
        gap[runs.index] = unpatched[1] - unpatched[0]
    return change, gap


def _measures(runs: PairedRuns, donor_log_probs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A measure of `sweep`: LD, KL and whether the forced answer is given, of logits at the contrast and the answer."""

    def measure(logits: Tensor, pair: Tensor) -> Tensor:
        log_probs = logits[:, 0].log_softmax(-1)
        wanted = donor_log_probs.to(logits.device)[pair]
        kl = (wanted.exp() * (wanted - log_probs)).sum(-1).clamp(min=0)  # rounding makes equal ones differ
        given = _gives_answer(logits[:, 1:], runs, pair)
        return torch.stack([_logit_difference(logits[:, 0], runs, pair), kl, given.to(kl.dtype)], dim=1)

    return measure


def _logit_difference(logits: Tensor, runs: PairedRuns, pair: Tensor) -> Tensor:
    """LD of rows (rows, V) of the pairs (rows,), at the contrast."""
    above, below = (
        logits.gather(1, token.to(logits.device)[pair, None]) for token in (runs.donor_token, runs.recipient_token)
    )
    return (above - below).squeeze(1)


def _gives_answer(logits: Tensor, runs: PairedRuns, pair: Tensor) -> Tensor:
    """Whether rows (rows, R, V), read where the answer is, give every token the runs are forced with: (rows,) bool."""
    width = logits.shape[1]
    targets, answer = (rows[:, -width:].to(logits.device)[pair] for rows in (runs.targets, runs.answer))
    return ((logits.argmax(-1) == targets) | ~answer).all(1)
