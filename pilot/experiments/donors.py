"""Donors: what a recipient's head outputs are replaced with. The experiment and its controls differ in this alone.

    own        the other side of the recipient's pair: the experiment itself
    wrong      another pair's, from a prompt whose answer is another: a control that carries no news of this pair
    self       the recipient's own outputs, put back: a control that must change nothing
    mean       each head's mean output, by position
    zero       zeros
    resample   another example of the same length, whatever it is

The first three are of pairs (pilot.experiments.effects), the others of single prompts (pilot.experiments.ablation).

Shapes: N rows of a batch, T positions, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pilot.inputs.pairs import TokenPair
from pilot.inputs.prompts import Batch, Prompt, batches_by_length
from pilot.models.hooks import head_outputs
from pilot.models.sizes import ModelSizes

# What `SweepEngine.run` takes as donor for the recipients of a batch: tokens (N, T), or for each layer head outputs
# (N or 1, T, H, D).
Donor = Callable[[Batch], "Tensor | list[Tensor]"]


@dataclass(frozen=True)
class TokenDonor:
    """Runs of other tokens: for each recipient those that replace its first ones; what follows stays.

    Of a donor prompt it is the recipient's forced answer that stays: both runs are followed by the same one.
    """

    tokens: Sequence[Sequence[int]]

    def __call__(self, batch: Batch) -> Tensor:
        rows = zip(batch.inputs.tolist(), batch.index, strict=True)
        return torch.tensor([[*self.tokens[i], *row[len(self.tokens[i]) :]] for row, i in rows])


def wrong_donor(pairs: Sequence[TokenPair], donors: Sequence[Prompt]) -> tuple[np.ndarray, TokenDonor]:
    """The numbers of the pairs that have a wrong donor, and those donors, in the order of these numbers.

    donors   the side of each pair that head outputs are taken from

    A wrong donor is the donor of the next pair of the same bucket and prompt length, the last being followed by the
    first, whose answer does not have this donor's token where this pair's answers part. This pair's forced answer
    follows it.
    """
    alike: dict[tuple[Hashable, int], list[int]] = {}
    for i, pair in enumerate(pairs):
        alike.setdefault((pair.bucket, len(pair.clean.ids)), []).append(i)
    wrong: dict[int, tuple[int, ...]] = {}
    for members in alike.values():
        for place, i in enumerate(members):
            part = slice(pairs[i].answers_part, pairs[i].answers_part + 1)  # empty where an answer has ended
            others = (*members[place + 1 :], *members[:place])
            different = (other for other in others if donors[other].answer[part] != donors[i].answer[part])
            if (other := next(different, None)) is not None:
                wrong[i] = donors[other].ids
    index = sorted(wrong)
    return np.array(index, dtype=np.int64), TokenDonor([wrong[i] for i in index])


@dataclass(frozen=True)
class SelfDonor:
    """The recipient's own head outputs, as if they were another's."""

    model: nn.Module

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[Tensor]:
        device = next(self.model.parameters()).device
        return [z.cpu() for z in head_outputs(self.model, batch.inputs.to(device))]


@dataclass(frozen=True)
class ConstantDonor:
    """The same head outputs for every recipient: for each layer z (1, T, H, D), and zeros at positions from T on."""

    z: Sequence[Tensor]

    def __call__(self, batch: Batch) -> list[Tensor]:
        seq = batch.inputs.shape[1]
        return [pad(layer[:, :seq], (0, 0, 0, 0, 0, max(0, seq - layer.shape[1]))) for layer in self.z]


def zero_donor(model: nn.Module) -> ConstantDonor:
    """Zeros in the place of every head."""
    sizes = ModelSizes.of(model)
    return ConstantDonor([torch.zeros(1, 0, sizes.n_heads, sizes.head_dim)] * sizes.n_layers)


@torch.no_grad()
def mean_donor(model: nn.Module, prompts: Sequence[Prompt], batch_size: int = 512) -> ConstantDonor:
    """The mean z of each head at each position, over the prompts (with their answers) that reach it."""
    sizes, device = ModelSizes.of(model), next(model.parameters()).device
    longest = max(prompt.seq_len for prompt in prompts)
    totals = torch.zeros(sizes.n_layers, longest, sizes.n_heads, sizes.head_dim, dtype=torch.float64)
    counts = torch.zeros(longest, 1, 1, dtype=torch.float64)
    for batch in batches_by_length(prompts):
        for inputs in torch.split(batch.inputs, batch_size):
            seq = inputs.shape[1]
            for layer, z in enumerate(head_outputs(model, inputs.to(device))):
                totals[layer, :seq] += z.sum(0, dtype=torch.float64).cpu()
            counts[:seq] += len(inputs)
    return ConstantDonor([mean.unsqueeze(0) for mean in (totals / counts.clamp(min=1)).float()])


def resample_donor(prompts: Sequence[Prompt], rng: np.random.Generator) -> TokenDonor:
    """For each prompt with its answer another one as long: never its own, unless there is no other.

    One alone in its length takes a longer one, cut: by causality its head outputs are those of the whole run.
    """
    tokens: list[list[int]] = [[]] * len(prompts)
    batches = batches_by_length(prompts)
    for batch, longer in zip(batches, [*batches[1:], None], strict=True):
        n, seq = batch.inputs.shape
        if n == 1 and longer:
            donors = longer.inputs[rng.integers(len(longer.inputs), size=1), :seq]
        else:
            order = rng.permutation(n)
            donor = np.empty(n, dtype=np.int64)
            donor[order] = np.roll(order, 1)  # a cycle through all of them has no fixed point
            donors = batch.inputs[donor]
        for i, row in zip(batch.index, donors.tolist(), strict=True):
            tokens[i] = row
    return TokenDonor(tokens)
