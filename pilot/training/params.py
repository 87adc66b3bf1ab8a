"""Sections `model` and `train` of params.yaml: the transformer's size, and how it is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pilot.runtime.schema import Count, Rate, Section, Seed

Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean: the weight of its past


class ModelParams(Section):
    n_layers: Count
    n_heads: Count
    d_model: Count
    d_mlp: Count


class TrainParams(Section):
    seed: Seed
    num_epochs: Count
    examples_per_epoch: Count
    batch_size: Count
    muon_lr: Rate
    muon_momentum: Decay
    adamw_lr: Rate
    adamw_betas: Annotated[list[Decay], Field(min_length=2, max_length=2)]
    weight_decay: Annotated[float, Field(ge=0, lt=1e3)]
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)]
    snapshot_epochs: list[Count]

    @property
    def checkpoints(self) -> list[str]:
        """What training keeps as checkpoint_NAME.pt: best, last, and epoch_NNN for each snapshot."""
        epochs = sorted(epoch for epoch in set(self.snapshot_epochs) if epoch <= self.num_epochs)
        return ["best", "last", *(f"epoch_{epoch:03d}" for epoch in epochs)]
