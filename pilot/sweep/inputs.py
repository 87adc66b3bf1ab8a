"""The arguments of a sweep, checked once for every implementation.

Shapes: P pairs, T positions, R read positions, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, HeadSubsets, Intervention, check_intervention
from pilot.models.hooks import output_projections
from pilot.models.sizes import ModelSizes

Interventions = tuple[Intervention, ...] | HeadSubsets


@dataclass(frozen=True)
class SweepInputs:
    """What a sweep runs on; tokens and positions are on the CPU.

    recipient       (P, T) int64 tokens
    donor           (P, T) int64 tokens, or for each layer z (P or 1, T, H, D)
    interventions   hashable: plans are kept by them
    read            (P, R) int64 positions
    tokens          (P, K) int64, those whose logits are wanted; None: all
    """

    recipient: Tensor
    donor: Tensor | tuple[Tensor, ...]
    interventions: Interventions
    read: Tensor
    tokens: Tensor | None = None

    def first_difference(self) -> Tensor:
        """The first position where a pair's runs may differ, (P,) int64; T where their tokens are the same."""
        if not isinstance(self.donor, Tensor):
            return torch.zeros(len(self.recipient), dtype=torch.int64)
        return (self.recipient == self.donor).long().cumprod(1).sum(1)

    def unpatched(self, pairs: Tensor) -> Tensor:
        """Tokens of the runs that B pairs need: the recipients' first, the donors' last, (2 B, T).

        There are only B runs where the donors' outputs are given, or where all recipients are their own donors.
        """
        recipient = self.recipient[pairs]
        if not isinstance(self.donor, Tensor):
            return recipient
        donor = self.donor[pairs]
        return recipient if donor.equal(recipient) else torch.cat([recipient, donor])

    def given_outputs(self, pairs: Tensor) -> list[Tensor] | None:
        """For each layer the donors' z of B pairs, (B or 1, T, H, D), where they were given; None: a run makes them."""
        if isinstance(self.donor, Tensor):
            return None
        return [z if len(z) == 1 else z[pairs] for z in self.donor]


def checked_inputs(
    model: nn.Module,
    recipient: Tensor,
    donor: Tensor | Sequence[Tensor],
    interventions: Sequence[Intervention],
    read: Tensor,
    tokens: Tensor | None = None,
) -> SweepInputs:
    """The arguments of pilot.sweep.sweep as inputs. Raises PilotError for whatever does not fit model or pairs."""
    sizes = ModelSizes.of(model)
    for name, positions in (("recipient", recipient), ("read", read)):
        if positions.dim() != 2 or positions.dtype != torch.int64:
            raise PilotError(f"{name} must be a 2-dimensional int64 tensor, not {_described(positions)}")
    if not len(interventions) or not read.numel() or not recipient.numel():
        raise PilotError("a sweep needs at least one intervention, one pair and one position to read")
    tokens_fit = not isinstance(donor, Tensor) or donor.shape == recipient.shape
    if len(read) != len(recipient) or not tokens_fit:
        shape = tuple(donor.shape) if isinstance(donor, Tensor) else f"{len(donor)} layers"
        raise PilotError(f"recipient {tuple(recipient.shape)}, donor {shape} and read {tuple(read.shape)} do not fit")
    seq = recipient.shape[1]
    if sizes.context is not None and seq > sizes.context:
        raise PilotError(f"a sequence of {seq} tokens does not fit the model's context of {sizes.context}")
    recipient, read = recipient.cpu(), read.cpu()
    _check_range("recipient", recipient, sizes.vocab_size, "tokens outside the vocabulary")
    _check_range("read", read, seq, f"positions outside the sequence of {seq} positions")
    for patch in _patches(interventions):
        check_intervention((patch,), model, seq)
    if isinstance(donor, Tensor):
        if donor.dtype != torch.int64:
            raise PilotError(f"donor must hold int64 tokens, not {_described(donor)}")
        donor = donor.cpu()
        _check_range("donor", donor, sizes.vocab_size, "tokens outside the vocabulary")
    else:
        donor = tuple(donor)
        _check_outputs(donor, model, sizes, *recipient.shape)
    if tokens is not None:
        if tokens.dim() != 2 or tokens.dtype != torch.int64 or len(tokens) != len(recipient) or not tokens.numel():
            raise PilotError(f"tokens must be ({len(recipient)}, at least 1) int64, not {_described(tokens)}")
        tokens = tokens.cpu()
        _check_range("tokens", tokens, sizes.vocab_size, "tokens outside the vocabulary")
    if not isinstance(interventions, HeadSubsets):
        interventions = tuple(map(tuple, interventions))
    return SweepInputs(recipient, donor, interventions, read, tokens)


def _check_range(name: str, numbers: Tensor, stop: int, outside: str) -> None:
    low, high = (int(bound) for bound in torch.aminmax(numbers))
    if low < 0 or high >= stop:
        raise PilotError(f"{name} holds {outside} (0 to {stop - 1}): {low if low < 0 else high}")


def _patches(interventions: Sequence[Intervention]) -> Iterable[HeadPatch]:
    """Every patch of the interventions, once."""
    if isinstance(interventions, HeadSubsets):
        return interventions.heads
    patches = dict.fromkeys(chain.from_iterable(interventions))
    for patch in patches:
        if not isinstance(patch, HeadPatch):
            raise PilotError(f"interventions must be tuples of HeadPatch, such as (HeadPatch(0, 1),), not of {patch!r}")
    return patches


def _check_outputs(donor: tuple[Tensor, ...], model: nn.Module, sizes: ModelSizes, pairs: int, seq: int) -> None:
    dtype = next(output_projections(model)[0].parameters()).dtype
    if len(donor) != sizes.n_layers:
        raise PilotError(f"donor has head outputs of {len(donor)} layers, the model has {sizes.n_layers} layers")
    for layer, z in enumerate(donor):
        shape = (seq, sizes.n_heads, sizes.head_dim)
        if z.dim() != 4 or len(z) not in (1, pairs) or z.shape[1:] != shape or z.dtype != dtype:
            sizes_needed = ", ".join(map(str, shape))
            raise PilotError(
                f"donor's layer {layer} must be ({pairs} or 1, {sizes_needed}) {_name(dtype)}, not {_described(z)}"
            )


def _described(x: Tensor) -> str:
    return f"{tuple(x.shape)} {_name(x.dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
