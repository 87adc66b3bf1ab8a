"""The training loop: batches of one length, two optimisers, one schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from tqdm import tqdm

from pilot.dataset import Bucket
from pilot.expressions import KINDS
from pilot.model import PilotTransformer
from pilot.params import TrainParams
from pilot.scoring import score_model


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training log; accuracies are exact match on validation lines, `seconds` counts from the start."""

    epoch: int
    examples: int
    loss: float
    val_flat: float
    val_paren: float
    seconds: float


def train(
    model: PilotTransformer,
    train_buckets: list[Bucket],
    val_buckets: dict[str, list[Bucket]],
    params: TrainParams,
    on_epoch: Callable[[EpochRecord], None],
    progress: bool = True,
) -> None:
    """Train `model` in place, calling `on_epoch` after each epoch. The loss is on the answer's tokens only.

    val_buckets   by kind, `flat` and `paren`

    On one machine with one number of threads the same arguments give the same weights, bit for bit.
    """
    device = next(model.parameters()).device
    steps_per_epoch = -(-params.examples_per_epoch // params.batch_size)
    optimizers = _optimizers(model, params)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(opt, _Schedule(params.warmup_steps, params.num_epochs * steps_per_epoch))
        for opt in optimizers
    ]
    stream = _batches(train_buckets, params.batch_size, torch.Generator().manual_seed(params.seed))
    start, examples, accuracy = time.monotonic(), 0, ""
    with tqdm(total=params.num_epochs * steps_per_epoch, unit="step", disable=None if progress else True) as bar:
        for epoch in range(1, params.num_epochs + 1):
            model.train()
            total_loss = 0.0
            for inputs, targets, answer in islice(stream, steps_per_epoch):
                logits = model(inputs.to(device), read=answer.to(device))
                loss = F.cross_entropy(logits, targets[answer].to(device))
                loss.backward()
                for optimizer, schedule in zip(optimizers, schedules, strict=True):
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                total_loss += loss.item()
                examples += len(inputs)
                bar.set_postfix_str(f"epoch {epoch}, loss {loss.item():.3f}{accuracy}", refresh=False)
                bar.update()
            model.eval()
            flat, paren = (score_model(model, val_buckets[kind]).exact_match.double().mean().item() for kind in KINDS)
            accuracy = f", validation flat {flat:.1%}, paren {paren:.1%}"
            mean_loss, seconds = total_loss / steps_per_epoch, time.monotonic() - start
            on_epoch(EpochRecord(epoch, examples, mean_loss, flat, paren, seconds))


def _batches(buckets: list[Bucket], batch_size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, ...]]:
    """(inputs, targets, answer) without end: pass after pass over the data, each in a new order."""
    while True:
        batches = [
            (bucket, rows)
            for bucket in buckets
            for rows in torch.randperm(len(bucket), generator=generator).split(batch_size)
        ]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            bucket, rows = batches[i]
            chosen = Bucket(bucket.index[rows], bucket.ids[rows])
            yield chosen.inputs, chosen.targets, chosen.answer


def _optimizers(model: PilotTransformer, params: TrainParams) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon) for the blocks' matrices, AdamW for all else."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=params.muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=params.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@dataclass(frozen=True)
class _Schedule:
    """Factor of the learning rate: a linear rise over the warm-up, under a linear fall to zero over all steps."""

    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1)) * (1 - step / self.total_steps)
