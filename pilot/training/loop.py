"""The training loop: batches of one length, two optimisers, one schedule. It can resume from any step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from pilot.arithmetic.examples import Bucket
from pilot.arithmetic.grammar import KINDS
from pilot.arithmetic.scoring import score_model
from pilot.models.transformer import PilotTransformer
from pilot.runtime import distributed
from pilot.training.params import TrainParams

SAVE_SECONDS = 20.0  # a kill costs at most so much training


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training log; accuracies are exact match on validation lines, `seconds` those trained so far."""

    epoch: int
    examples: int
    loss: float
    val_flat: float
    val_paren: float
    seconds: float


class Training:
    """The training of a model in place, step by step. It can be saved after any step, and resume from there.

    On one machine with one number of threads the same arguments give the same weights, bit for bit, however often
    training was interrupted. Under torchrun each process computes its share of every batch, and all make the same step.

    step   optimiser steps made
    log    one record for each finished epoch
    """

    def __init__(self, model: PilotTransformer, buckets: list[Bucket], params: TrainParams):
        self.model, self.params, self._buckets = model, params, buckets
        self.steps_per_epoch = -(-params.examples_per_epoch // params.batch_size)
        self.total_steps = params.num_epochs * self.steps_per_epoch
        self._optimizers = _optimizers(model, params)
        self._schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, _Schedule(params.warmup_steps, self.total_steps))
            for optimizer in self._optimizers
        ]
        self.step = 0
        self.log: list[EpochRecord] = []
        self._examples = 0
        self._epoch_loss = 0.0
        self._start = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to resume from this step: tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "step": self.step,
            "examples": self._examples,
            "epoch_loss": self._epoch_loss,
            "seconds": self._seconds(),
            "log": [asdict(record) for record in self.log],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the step at which `state` was saved by a training with the same arguments."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.step = state["step"]
        self._examples = state["examples"]
        self._epoch_loss = state["epoch_loss"]
        self._start = time.monotonic() - state["seconds"]
        self.log = [EpochRecord(**record) for record in state["log"]]

    def run(
        self,
        val_buckets: dict[str, list[Bucket]],
        on_epoch: Callable[[EpochRecord], None],
        save: Callable[[], None],
        progress: bool = True,
    ) -> None:
        """Train to the last epoch.

        val_buckets   by kind, `flat` and `paren`
        on_epoch      called after each epoch
        save          called after that and at least every SAVE_SECONDS between steps
        """
        device = next(self.model.parameters()).device
        batches = _batches(self._buckets, self.params.batch_size, self.params.seed)
        saved = time.monotonic()
        self.model.train()
        with tqdm(total=self.total_steps, initial=self.step, unit="step", disable=None if progress else True) as bar:
            for bucket in islice(batches, self.step, self.total_steps):
                loss = self._train_step(bucket, device)
                bar.set_postfix_str(self._status(loss), refresh=False)
                bar.update()
                epoch_is_over = self.step % self.steps_per_epoch == 0
                if epoch_is_over:
                    self._end_epoch(val_buckets)
                    on_epoch(self.log[-1])
                if epoch_is_over or time.monotonic() - saved >= SAVE_SECONDS:
                    save()
                    saved = time.monotonic()

    def _train_step(self, bucket: Bucket, device: torch.device) -> float:
        """One step of both optimisers on a batch, of which each process computes its share; the whole batch's loss."""
        share = slice(distributed.rank(), None, distributed.world_size())
        answer = bucket.answer
        read, n_tokens = answer[share], answer.sum().item()  # the batch's tokens, because shares differ in theirs
        logits = self.model(bucket.inputs[share].to(device), read=read.to(device))
        loss = F.cross_entropy(logits, bucket.targets[share][read].to(device), reduction="sum") / n_tokens
        loss.backward()
        distributed.sum_gradients(self.model)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        batch_loss = distributed.total(loss.detach()).item()
        self.step += 1
        self._examples += len(bucket)
        self._epoch_loss += batch_loss
        return batch_loss

    def _end_epoch(self, val_buckets: dict[str, list[Bucket]]) -> None:
        self.model.eval()
        flat, paren = (score_model(self.model, val_buckets[kind]).exact_match.double().mean().item() for kind in KINDS)
        self.model.train()
        epoch, loss = self.step // self.steps_per_epoch, self._epoch_loss / self.steps_per_epoch
        self.log.append(EpochRecord(epoch, self._examples, loss, flat, paren, self._seconds()))
        self._epoch_loss = 0.0

    def _seconds(self) -> float:
        """Spent in training, interrupted runs included."""
        return time.monotonic() - self._start

    def _status(self, loss: float) -> str:
        text = f"epoch {-(-self.step // self.steps_per_epoch)}, loss {loss:.3f}"
        for last in self.log[-1:]:
            text += f", validation flat {last.val_flat:.1%}, paren {last.val_paren:.1%}"
        return text


def _batches(buckets: list[Bucket], batch_size: int, seed: int) -> Iterator[Bucket]:
    """Batches of one length without end: pass after pass over the data, each in a new order.

    Bit for bit the same for the same seed, so a place in it is the number of batches taken.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        batches = [
            (bucket, rows)
            for bucket in buckets
            for rows in torch.randperm(len(bucket), generator=generator).split(batch_size)
        ]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            bucket, rows = batches[i]
            yield Bucket(bucket.index[rows], bucket.ids[rows])


def _optimizers(model: PilotTransformer, params: TrainParams) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon) for the blocks' matrices, AdamW for all else."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    first_decay, second_decay = params.adamw_betas
    return [
        torch.optim.Muon(matrices, lr=params.muon_lr, momentum=params.muon_momentum, weight_decay=params.weight_decay),
        torch.optim.AdamW(
            rest, lr=params.adamw_lr, betas=(first_decay, second_decay), weight_decay=params.weight_decay
        ),
    ]


@dataclass(frozen=True)
class _Schedule:
    """Factor of the learning rate: a linear rise over the warm-up, under a linear fall to zero over all steps."""

    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1)) * (1 - step / self.total_steps)
