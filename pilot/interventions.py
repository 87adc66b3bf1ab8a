"""What is patched: single heads at a range of positions, and sets of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

from pilot.errors import PilotError

if TYPE_CHECKING:  # this module says what to patch, and needs no PyTorch to say it
    from pilot.models.transformer import ModelConfig


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


def single_heads(config: ModelConfig) -> list[Intervention]:
    """One intervention for each head, at all positions, layer by layer."""
    return [(HeadPatch(layer, head),) for layer in range(config.n_layers) for head in range(config.n_heads)]


def single_positions(config: ModelConfig, seq_len: int) -> list[Intervention]:
    """One intervention for each head and position: layer by layer, head by head, position by position."""
    return position_windows(single_heads(config), seq_len, width=1)


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


def head_subsets(heads: Intervention) -> list[Intervention]:
    """All 2**n sets of n heads. Number i holds head j if bit j of i is set: the order that pilot.experiments.shapley
    takes its values in.
    """
    return [tuple(compress(heads, _bits(i, len(heads)))) for i in range(2 ** len(heads))]


def _bits(number: int, n: int) -> list[int]:
    return [number >> j & 1 for j in range(n)]


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


def check_heads(intervention: Intervention, config: ModelConfig) -> None:
    """Raises PilotError for a layer or head that the model has not."""
    for patch in intervention:
        if not 0 <= patch.layer < config.n_layers:
            raise PilotError(f"layer {patch.layer} does not exist: the model has layers 0 to {config.n_layers - 1}")
        if not 0 <= patch.head < config.n_heads:
            raise PilotError(f"head {patch.head} does not exist: the model has heads 0 to {config.n_heads - 1}")


def check_intervention(intervention: Intervention, config: ModelConfig, seq_len: int) -> None:
    """Raises PilotError for a layer, head or position that a run of `seq_len` positions has not."""
    check_heads(intervention, config)
    for patch in intervention:
        stop = seq_len if patch.stop is None else patch.stop
        if not 0 <= patch.start < stop <= seq_len:
            raise PilotError(
                f"positions {patch.start}:{'' if patch.stop is None else patch.stop} are outside the sequence of "
                f"{seq_len} positions (0 to {seq_len - 1})"
            )
