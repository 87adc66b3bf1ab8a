"""Interventions: which heads of which layers are patched, and at which positions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from pilot.errors import PilotError


class HeadPatch(NamedTuple):
    """Replace the output of one head at positions start..stop-1 (`stop=None`: to the end)."""

    layer: int
    head: int
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """`L2H2`, or `L2H2@5:10` with positions."""
        positions = f"@{self.start}:{'' if self.stop is None else self.stop}"
        return f"L{self.layer}H{self.head}" + ("" if positions == "@0:" else positions)


Intervention = tuple[HeadPatch, ...]


def head_counts(model: object) -> tuple[int, int]:
    """How many layers a model has and how many heads each of them has; `model` is a model or its config.

    Raises PilotError where neither the pilot's names nor those of Hugging Face configs are found.
    """
    config = getattr(model, "config", model)
    for layers, heads in (("n_layers", "n_heads"), ("num_hidden_layers", "num_attention_heads")):
        if hasattr(config, layers) and hasattr(config, heads):
            return int(getattr(config, layers)), int(getattr(config, heads))
    raise PilotError(f"{type(config).__name__} does not say how many layers and heads the model has")


def single_heads(model: object) -> list[Intervention]:
    """One intervention for each head of a model (or of its config), at all positions, layer by layer."""
    n_layers, n_heads = head_counts(model)
    return [(HeadPatch(layer, head),) for layer in range(n_layers) for head in range(n_heads)]


def single_positions(model: object, seq_len: int) -> list[Intervention]:
    """One intervention for each head and position: layer by layer, head by head, position by position."""
    return position_windows(single_heads(model), seq_len, width=1)


def position_windows(
    interventions: Sequence[Intervention], seq_len: int, width: int, step: int = 1
) -> list[Intervention]:
    """Each intervention at a window of `width` positions that slides over the sequence `step` by `step`.

    All windows of the first intervention come first. Raises PilotError for a width or step below 1 or a width above
    `seq_len`.
    """
    if not (1 <= width <= seq_len and step >= 1):
        raise PilotError(f"windows of {width} positions, {step} apart, do not fit a sequence of {seq_len}")
    starts = range(0, seq_len - width + 1, step)
    return [at_positions(intervention, start, start + width) for intervention in interventions for start in starts]


@dataclass(frozen=True)
class HeadSubsets(Sequence[Intervention]):
    """All 2**n sets of n heads, made when they are asked for: set i holds head j if bit j of i is set."""

    heads: Intervention

    def __len__(self) -> int:
        return 1 << len(self.heads)

    @overload
    def __getitem__(self, index: int) -> Intervention: ...
    @overload
    def __getitem__(self, index: slice) -> list[Intervention]: ...
    def __getitem__(self, index: int | slice) -> Intervention | list[Intervention]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        mask = range(len(self))[index]
        return tuple(head for j, head in enumerate(self.heads) if mask >> j & 1)


def head_subsets(heads: Sequence[HeadPatch]) -> HeadSubsets:
    """All 2**n sets of n heads, in the order in which pilot.experiments.shapley takes its values."""
    return HeadSubsets(tuple(heads))


def at_positions(intervention: Intervention, start: int, stop: int | None) -> Intervention:
    """The same heads, patched at positions start..stop-1 only."""
    return tuple(patch._replace(start=start, stop=stop) for patch in intervention)


def parse_positions(text: str) -> tuple[int, int | None]:
    """`"5:10"` -> (5, 10), `"12:"` -> (12, None). Raises PilotError for anything else and for an empty range."""
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if not match:
        raise PilotError(f"positions {text!r} are not of the form START:STOP, such as 5:10")
    start, stop = int(match[1] or 0), int(match[2]) if match[2] else None
    if stop is not None and stop <= start:
        raise PilotError(f"positions {text!r} are empty: STOP must be larger than START")
    return start, stop


def parse_heads(text: str) -> Intervention:
    """`"2.2,3.1"` -> heads 2 of layer 2 and 1 of layer 3. Raises PilotError for anything else."""
    patches = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*L?(\d+)[.H](\d+)\s*", part)
        if not match:
            raise PilotError(f"heads {text!r}: {part!r} is not of the form LAYER.HEAD, such as 2.2")
        patches.append(HeadPatch(int(match[1]), int(match[2])))
    if len(set(patches)) != len(patches):
        raise PilotError(f"heads {text!r} name a head twice")
    return tuple(patches)


def check_heads(intervention: Intervention, model: object) -> None:
    """Raises PilotError if a patch names a layer or head that the model (or its config) does not have."""
    n_layers, n_heads = head_counts(model)
    for patch in intervention:
        if not 0 <= patch.layer < n_layers:
            raise PilotError(f"layer {patch.layer} does not exist: the model has layers 0 to {n_layers - 1}")
        if not 0 <= patch.head < n_heads:
            raise PilotError(f"head {patch.head} does not exist: the model has heads 0 to {n_heads - 1}")


def check_intervention(intervention: Intervention, model: object, seq_len: int) -> None:
    """Raises PilotError if a patch names a layer, head or position that a run of `seq_len` positions does not have."""
    check_heads(intervention, model)
    for patch in intervention:
        stop = seq_len if patch.stop is None else patch.stop
        if not 0 <= patch.start < stop <= seq_len:
            raise PilotError(
                f"positions {patch.start}:{'' if patch.stop is None else patch.stop} are outside the sequence of "
                f"{seq_len} positions (0 to {seq_len - 1})"
            )
