"""Runs of a model with gradients at its head outputs z, and what they cost.

Shapes: B pairs of a batch, P pairs, T positions, L layers, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.inputs.prompts import Prompt, batches_by_length
from pilot.interventions import head_counts
from pilot.models.hooks import head_outputs, output_projections
from pilot.sweep.reference import forward_logits

MOST_POSITIONS = 512  # of a batch: everything that a forward computes is kept for its backward pass


@dataclass(frozen=True, eq=False)
class ContrastBatch:
    """Pairs of one length, cut at the contrast: the last position's logits tell the two answers apart.

    index              (B,) the numbers of the pairs
    recipient, donor   (B, T) int64 tokens
    answers            (B, 2) int64, the donor's and the recipient's answer token at the contrast
    """

    index: np.ndarray
    recipient: Tensor
    donor: Tensor
    answers: Tensor


class Gradients(NamedTuple):
    """Of the logit difference (LD) at z: L tensors (B, T, H, D) each."""

    z: list[Tensor]
    gradient: list[Tensor]


class GradientRuns:
    """The runs of an experiment's pairs, counted.

    A forward costs 1 for each pair, and a backward pass as much: it goes to the head outputs and not to the weights,
    so it takes one product for every product of the forward.
    """

    def __init__(self, experiment: PairExperiment):
        self.experiment = experiment
        self.model: nn.Module = experiment.engine.model
        self._device = next(self.model.parameters()).device
        self._passes = 0

    @property
    def cost(self) -> float:
        """Forward-equivalents for each pair, so far."""
        return self._passes / len(self.experiment)

    def batches(self) -> Iterator[ContrastBatch]:
        """All pairs, on the model's device."""
        sides = list(zip(self.experiment.recipients, self.experiment.donors, self.experiment.pairs, strict=True))
        # The last token of a run is predicted, not read.
        cut = [Prompt(recipient.ids, donor.answer[: pair.answers_part + 1]) for recipient, donor, pair in sides]
        answers = torch.tensor(
            [[side.answer[pair.answers_part] for side in (donor, recipient)] for recipient, donor, pair in sides]
        )
        for batch in batches_by_length(cut):
            donor = self.experiment.own_donor(batch)
            for rows in torch.arange(len(donor)).split(max(1, MOST_POSITIONS // donor.shape[1])):
                index = batch.index[rows.numpy()]
                tokens = batch.inputs[rows], donor[rows], answers[index]
                yield ContrastBatch(index, *(each.to(self._device) for each in tokens))

    @torch.no_grad()
    def outputs(self, ids: Tensor) -> list[Tensor]:
        """z of one forward: L tensors (B, T, H, D)."""
        self._passes += len(ids)
        return head_outputs(self.model, ids)

    def gradients(self, ids: Tensor, answers: Tensor) -> Gradients:
        """z of the run and each pair's own gradient at it."""
        with _differentiable(self.model) as (z, leaves):
            difference = self._logit_difference(ids, answers)
        self._passes += len(ids)
        return Gradients(z, list(torch.autograd.grad(difference, leaves)))

    def gradient_at(self, ids: Tensor, answers: Tensor, layer: int, added: Tensor) -> Tensor:
        """Each pair's own gradient at the z of one layer with `added` to it: both (B, T, H, D)."""
        with _differentiable(self.model, {layer: added}) as (_, leaves):
            difference = self._logit_difference(ids, answers)
        self._passes += len(ids)
        return torch.autograd.grad(difference, leaves[layer])[0]

    def gradients_without_layers(self, ids: Tensor, answers: Tensor) -> Iterator[list[Tensor]]:
        """For each layer in turn the gradients that do not pass through what that layer adds to the residual stream.

        One forward and L backward passes. Raises PilotError for a model whose layers do not take the residual stream
        as their first argument and return it.
        """
        n_layers = head_counts(self.model)[0]
        with _differentiable(self.model) as (_, leaves), _droppable(self.model) as drop:
            difference = self._logit_difference(ids, answers)
        for layer in range(n_layers):
            drop(layer)
            self._passes += len(ids)
            yield list(
                torch.autograd.grad(difference, leaves, retain_graph=layer < n_layers - 1, materialize_grads=True)
            )

    def _logit_difference(self, ids: Tensor, answers: Tensor) -> Tensor:
        """Summed over the pairs, whose gradients are independent."""
        self._passes += len(ids)
        above, below = forward_logits(self.model, ids)[:, -1].gather(1, answers).unbind(1)
        return (above - below).sum()


@contextmanager
def interpolated(model: nn.Module, recipient: Tensor, donor: Tensor, share: float) -> Iterator[None]:
    """Within the block token embeddings are `share` of the way from the recipient's tokens to the donor's, (B, T)."""
    embedding = token_embedding(model)

    def interpolate(*_: Any) -> Tensor:
        return torch.lerp(*ends, share)

    with torch.no_grad():
        ends = embedding(recipient), embedding(donor)
    handle = embedding.register_forward_hook(interpolate)
    try:
        yield
    finally:
        handle.remove()


def token_embedding(model: nn.Module) -> nn.Module:
    """The first embedding of the model, which is that of tokens. Raises PilotError for a model without one."""
    embedding = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    if embedding is None:
        raise PilotError(f"{type(model).__name__} has no token embedding to interpolate")
    return embedding


@contextmanager
def _differentiable(
    model: nn.Module, added: Mapping[int, Tensor] | None = None
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Forwards within the block fill in z of each layer, and a leaf that was added to it: both (B, T, H, D).

    added   the values of leaves by layer; the others are zero
    """
    n_heads = head_counts(model)[1]
    z: list[Tensor] = []
    leaves: list[Tensor] = []

    def adding(term: Tensor | None) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def add(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            own = args[0].unflatten(-1, (n_heads, -1))
            leaf = torch.zeros_like(own) if term is None else term.detach().clone()
            z.append(own.detach())
            leaves.append(leaf.requires_grad_())
            return ((own + leaf).flatten(2), *args[1:])

        return add

    with ExitStack() as hooks, torch.enable_grad():
        for layer, projection in enumerate(output_projections(model)):
            hooks.callback(projection.register_forward_pre_hook(adding((added or {}).get(layer))).remove)
        yield z, leaves


@contextmanager
def _droppable(model: nn.Module) -> Iterator[Callable[[int], None]]:
    """Yields a function that says through which layer the gradients of forwards in the block shall not pass."""
    dropped = -1

    def drop(layer: int) -> None:
        nonlocal dropped
        dropped = layer

    def gating(number: int) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def gate(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            after = output if isinstance(output, Tensor) else output[0]
            if not args or not isinstance(args[0], Tensor) or args[0].shape != after.shape:
                raise PilotError(f"{type(layer).__name__} does not take and return the residual stream")
            contribution = after - args[0]
            contribution.register_hook(lambda gradient: torch.zeros_like(gradient) if dropped == number else gradient)
            gated = args[0] + contribution
            return gated if isinstance(output, Tensor) else (gated, *output[1:])

        return gate

    with ExitStack() as hooks:
        for number, layer in enumerate(_layers(model)):
            hooks.callback(layer.register_forward_hook(gating(number)).remove)
        yield drop


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers that the output projections are in."""
    projections = output_projections(model)
    for layers in model.modules():
        if not isinstance(layers, nn.ModuleList) or len(layers) != len(projections):
            continue
        if all(projection in layer.modules() for layer, projection in zip(layers, projections, strict=True)):
            return list(layers)
    raise PilotError(f"{type(model).__name__} keeps its layers in no list")
