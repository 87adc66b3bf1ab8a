"""What patching does to counterfactual pairs: logit difference, KL divergence, and the answers that are given.

The logit difference (LD) is counted towards the donor: the logit of the donor's answer token minus that of the
recipient's, at the first position where the two answers differ. Recovery is (LD patched - LD recipient) / (LD donor -
LD recipient), as a ratio of means over the pairs: in either direction 0 where the patch does nothing and 1 where it
does all (Zhang & Nanda 2024, arXiv:2309.16042).

Shapes: n interventions, P pairs, R positions that cover the answers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pilot.errors import PilotError
from pilot.experiments.donors import Donor, SelfDonor, TokenDonor, wrong_donor
from pilot.experiments.statistics import ratio_of_means
from pilot.inputs.pairs import ROLES, TokenPair
from pilot.inputs.prompts import Batch, batches_by_length, gives_answer
from pilot.interventions import Intervention
from pilot.sweep import SweepEngine

Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Effects:
    """Of n interventions on P pairs.

    change    (n, P) LD patched - LD recipient
    kl        (n, P) nats, from the donor's distribution over tokens to the patched run's, where the answers part
    adopted   (n, P) bool, the patched run gives the donor's answer, every token of it
    kept      (n, P) bool, it still gives the recipient's own
    """

    change: np.ndarray
    kl: np.ndarray
    adopted: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True, eq=False)
class Answers:
    """What the unpatched runs of P pairs answer.

    recipient_right, donor_right   (P,) bool, the run gives its own answer, every token of it
    donor_log_probs                (P, V) float32, of the donor's run where the answers part
    """

    recipient_right: NDArray[np.bool_]
    donor_right: NDArray[np.bool_]
    donor_log_probs: Tensor

    def take(self, index: np.ndarray) -> Answers:
        return Answers(**{name: value[index] for name, value in vars(self).items()})


class PairExperiment:
    """Token pairs, patched in one direction: what is common to all interventions is measured once, when it is wanted.

    engine      a SweepEngine, whose model is in eval mode
    pairs       P of them, at least one
    direction   "denoising": the recipient is the corrupt prompt and the donor the clean one; "noising": reversed

    Recipient and donor are followed by the same answer (teacher forcing): by the donor's to see whether the patched run
    gives it, by the recipient's to see whether it still gives its own. Raises PilotError without pairs.
    """

    def __init__(self, engine: SweepEngine, pairs: Sequence[TokenPair], direction: str):
        if not pairs:
            raise PilotError("an experiment needs pairs, and there are none")
        recipient, donor = ROLES[direction]
        self.engine, self.pairs, self.direction = engine, list(pairs), direction
        self.recipients = [getattr(pair, recipient) for pair in pairs]
        self.donors = [getattr(pair, donor) for pair in pairs]
        self.own_donor = TokenDonor([prompt.ids for prompt in self.donors])
        self.self_donor = SelfDonor(engine.model)
        self._contrast = torch.tensor([pair.contrast for pair in pairs])
        self._donor_token, self._recipient_token = (
            torch.tensor([prompt.answer[pair.answers_part] for prompt, pair in zip(prompts, pairs, strict=True)])
            for prompts in (self.donors, self.recipients)
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, index: np.ndarray) -> PairExperiment:
        """The experiment on the pairs of these numbers; what was measured of them is kept."""
        part = PairExperiment(self.engine, [self.pairs[i] for i in index], self.direction)
        part.unpatched_ld = self.unpatched_ld[:, index]
        if "answers" in vars(self):
            part.answers = self.answers.take(index)
        return part

    @property
    def ld_recipient(self) -> NDArray[np.float64]:
        """LD of the unpatched recipients, (P,)."""
        return np.asarray(self.unpatched_ld[0])

    @property
    def ld_donor(self) -> NDArray[np.float64]:
        """LD of the donors, (P,)."""
        return np.asarray(self.unpatched_ld[1])

    @property
    def gap(self) -> NDArray[np.float64]:
        """LD donor - LD recipient, (P,): what a recovery of 1 would change. The same in both directions."""
        return self.ld_donor - self.ld_recipient

    @property
    def both_right(self) -> NDArray[np.bool_]:
        """(P,) bool, whether the unpatched model gives the right answer on both sides, every token of it."""
        return self.answers.recipient_right & self.answers.donor_right

    def wrong_donor(self) -> tuple[np.ndarray, TokenDonor]:
        """The numbers of the pairs that have a wrong donor, and that donor for `take` of them."""
        return wrong_donor(self.pairs, self.donors)

    @cached_property
    def unpatched_ld(self) -> NDArray[np.float64]:
        """LD of recipients and donors, (2, P), both counted towards the donor. Raises PilotError if not finite."""
        ld = np.empty((2, len(self)))
        for batch in self._batches("donor"):
            runs = torch.cat([batch.inputs, self.own_donor(batch)])
            read, tokens = (rows.repeat(2, 1) for rows in (self._read(batch)[:, :1], self._tokens(batch)))
            measured = self.engine.run(runs, runs, [()], read=read, measure=_logit_difference(tokens))
            ld[:, batch.index] = measured.view(2, -1)
        _check_finite(ld)
        return ld

    @cached_property
    def answers(self) -> Answers:
        """What the runs without a patch answer."""
        right = np.empty((2, len(self)), dtype=bool)
        log_probs: list[Tensor] = [torch.empty(0)] * len(self)
        for batch in self._batches("donor"):
            donor = self.own_donor(batch)
            logits = self.engine.run(donor, donor, [()], read=self._read(batch))[0]
            right[1, batch.index] = _answer_given(batch)(logits[:, 1:], torch.arange(len(donor)))[:, 0] > 0
            for i, row in zip(batch.index, logits[:, 0].log_softmax(-1), strict=True):
                log_probs[i] = row
        for batch in self._batches("recipient"):
            own = self.engine.run(
                batch.inputs, batch.inputs, [()], read=batch.answer_positions, measure=_answer_given(batch)
            )
            right[0, batch.index] = own[0, :, 0] > 0
        return Answers(right[0], right[1], torch.stack(log_probs))

    def effects(self, interventions: Sequence[Intervention], donor: Donor | None = None) -> Effects:
        """All measures of every intervention on every pair. `donor` is a control's; None: the pair's other side."""
        donor = donor or self.own_donor
        shape = len(interventions), len(self)
        change, kl, adopted, kept = np.empty(shape), np.empty(shape), np.empty(shape, bool), np.empty(shape, bool)
        for batch in self._batches("donor"):
            measured = self.engine.run(
                batch.inputs, donor(batch), interventions, read=self._read(batch), measure=self._all_measures(batch)
            ).numpy()
            change[:, batch.index] = measured[..., 0] - self.ld_recipient[batch.index]
            kl[:, batch.index], adopted[:, batch.index] = measured[..., 1], measured[..., 2] > 0
            kept[:, batch.index] = measured[..., 3] > 0
        for batch in self._batches("recipient") if self._answers_are_read else []:
            given = self.engine.run(
                batch.inputs,
                donor(batch),
                interventions,
                read=batch.answer_positions,
                measure=_answer_given(batch),
            )
            kept[:, batch.index] = given[..., 0] > 0
        _check_finite(change)
        return Effects(change, kl, adopted, kept)

    def changes(self, interventions: Sequence[Intervention], donor: Donor | None = None) -> np.ndarray:
        """LD changes alone, as in Effects: (n, P) float32. Two logits are read at one position: sweeps are cheap."""
        donor = donor or self.own_donor
        change = np.empty((len(interventions), len(self)), dtype=np.float32)
        for batch in self._batches("donor"):
            read, tokens = self._read(batch)[:, :1], self._tokens(batch)
            logits = self.engine.run(batch.inputs, donor(batch), interventions, read=read, tokens=tokens).numpy()
            ld = logits[..., 0, 0] - logits[..., 0, 1]
            change[:, batch.index] = ld - self.ld_recipient[batch.index]
        _check_finite(change)
        return change

    def recovery(self, interventions: Sequence[Intervention]) -> np.ndarray:
        """Of each intervention, over all pairs: (n,)."""
        return ratio_of_means(self.changes(interventions), self.gap)

    @property
    def _answers_are_read(self) -> bool:
        """Whether an answer has tokens after its first, so that a run depends on the answer that it is followed by."""
        return any(len(prompt.answer) > 1 for prompt in (*self.recipients, *self.donors))

    def _batches(self, forced: str) -> list[Batch]:
        """The recipients' runs, followed by the answers of the "donor" or of the "recipient"."""
        answered = {"donor": self.donors, "recipient": self.recipients}[forced]
        return batches_by_length(self.recipients, [prompt.answer for prompt in answered])

    def _read(self, batch: Batch) -> Tensor:
        """The contrast, then the answer: (N, 1 + R)."""
        return torch.cat([self._contrast[batch.index][:, None], batch.answer_positions], dim=1)

    def _tokens(self, batch: Batch) -> Tensor:
        """The donors' and the recipients' answer tokens at the contrast, (N, 2)."""
        return torch.stack([self._donor_token[batch.index], self._recipient_token[batch.index]], dim=1)

    def _all_measures(self, batch: Batch) -> Measure:
        """LD, KL, whether the forced answer is given, and whether the recipient's token is where the answers part.

        The logits are those at the contrast and the answer.
        """
        logit_difference, answer_given = _logit_difference(self._tokens(batch)), _answer_given(batch)
        donor_log_probs = self.answers.donor_log_probs[batch.index]
        recipient_token = self._recipient_token[batch.index]

        def measure(logits: Tensor, pair: Tensor) -> Tensor:
            log_probs, wanted = logits[:, 0].log_softmax(-1), donor_log_probs.to(logits.device)[pair]
            kl = (wanted.exp() * (wanted - log_probs)).sum(-1, keepdim=True)
            kl = kl.clamp(min=0)  # rounding makes equal ones differ
            given = logits[:, 0].argmax(-1) == recipient_token.to(logits.device)[pair]
            adopted = answer_given(logits[:, 1:], pair)
            return torch.cat([logit_difference(logits, pair), kl, adopted, given[:, None].to(kl.dtype)], dim=1)

        return measure


def _logit_difference(tokens: Tensor) -> Measure:
    """LD of logits read at the contrast first of all; tokens (N, 2) are the donors' and the recipients' there."""

    def measure(logits: Tensor, pair: Tensor) -> Tensor:
        above, below = logits[:, 0].gather(1, tokens.to(logits.device)[pair]).unbind(1)
        return (above - below)[:, None]

    return measure


def _answer_given(batch: Batch) -> Measure:
    """1 where logits (rows, R, V), read at the answer's positions, give every token of the forced answer; else 0."""
    targets, answer = batch.answers_at(batch.answer_positions)

    def measure(logits: Tensor, pair: Tensor) -> Tensor:
        wanted, counts = (rows.to(logits.device)[pair] for rows in (targets, answer))
        return gives_answer(logits.argmax(-1), wanted, counts)[:, None].to(logits.dtype)

    return measure


def _check_finite(ld: np.ndarray) -> None:
    if not np.isfinite(ld).all():
        pair = int(np.flatnonzero(~np.isfinite(ld).all(0))[0])
        raise PilotError(
            f"the logits of pair {pair} are not finite numbers: the model has diverged; analyse an earlier checkpoint"
        )
