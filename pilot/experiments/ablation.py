"""What a head is worth: accuracy with its output replaced by zeros, by its mean, or by another example's.

An ablation is a patch whose donor is made up. Mean ablation takes the head's mean output at each position over the
validation set; resample ablation takes the output on another test example of the same length.
"""

from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

from pilot.arithmetic.examples import Bucket
from pilot.arithmetic.scoring import answer_positions, score
from pilot.interventions import Intervention
from pilot.models.hooks import head_outputs
from pilot.models.transformer import PilotTransformer
from pilot.sweep import SweepEngine

METHODS = ("zero", "mean", "resample")


@torch.no_grad()
def mean_head_outputs(model: PilotTransformer, buckets: list[Bucket], batch_size: int = 512) -> list[torch.Tensor]:
    """The mean z of each head at each position over all examples that reach it: per layer (1, context, H, D).

    Positions beyond the longest example are zero.
    """
    config = model.config
    device = next(model.parameters()).device
    totals = torch.zeros(config.n_layers, config.context, config.n_heads, config.head_dim, dtype=torch.float64)
    counts = torch.zeros(config.context, 1, 1, dtype=torch.float64)
    for bucket in buckets:
        for inputs in bucket.inputs.split(batch_size):
            seq = inputs.shape[1]
            for layer, z in enumerate(head_outputs(model, inputs.to(device))):
                totals[layer, :seq] += z.sum(0, dtype=torch.float64).cpu()
            counts[:seq] += len(inputs)
    means = (totals / counts.clamp(min=1)).float()
    return [mean.unsqueeze(0) for mean in means]


def ablated_correct(
    model: PilotTransformer,
    buckets: list[Bucket],
    interventions: list[Intervention],
    method: str,
    means: list[torch.Tensor],
    rng: np.random.Generator,
    impl: str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """Exact match of every example under every intervention: (n_interventions, N) bool, in the examples' order.

    method   one of METHODS; `means` is what `mean_head_outputs` gave, and `rng` chooses the other examples
    """
    n_examples = sum(len(bucket) for bucket in buckets)
    correct = np.zeros((len(interventions), n_examples), dtype=bool)
    donors = _donors(buckets, method, means, rng)
    engine = SweepEngine(model, impl)
    bar = tqdm(buckets, desc=f"{method} ablation", unit="length", disable=None if progress else True)
    for bucket, donor in zip(bar, donors, strict=True):
        read = answer_positions(bucket.answer)
        targets, answer = bucket.targets.gather(1, read), bucket.answer.gather(1, read)
        for i, rows in enumerate(engine.predict(bucket.inputs, donor, interventions, read)):
            correct[i, bucket.index] = score(rows, targets, answer).exact_match.numpy()
    return correct


def _donors(buckets: list[Bucket], method: str, means: list[torch.Tensor], rng: np.random.Generator):
    """For each bucket the `donor` that `sweep` takes."""
    for i, bucket in enumerate(buckets):
        seq = bucket.inputs.shape[1]
        if method == "zero":
            yield [torch.zeros_like(mean[:, :seq]) for mean in means]
        elif method == "mean":
            yield [mean[:, :seq] for mean in means]
        else:
            yield _other_examples(buckets[i:], rng)


def _other_examples(buckets: list[Bucket], rng: np.random.Generator) -> torch.Tensor:
    """For each example of the first bucket another one's tokens: never its own, unless there is no other.

    An example alone in its length takes a longer one, cut: by causality its head outputs are those of the whole run.
    """
    bucket, longer = buckets[0], buckets[1:]
    n, seq = bucket.inputs.shape
    if n == 1 and longer:
        return longer[0].inputs[rng.integers(len(longer[0]), size=1), :seq]
    order = rng.permutation(n)
    donor = np.empty(n, dtype=np.int64)
    donor[order] = np.roll(order, 1)  # a cycle through all of them has no fixed point
    return bucket.inputs[donor]
