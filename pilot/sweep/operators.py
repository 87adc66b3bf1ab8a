"""Chooses what the engine computes with: once for a sweep engine, not at every call of an operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from pilot.ops.branched_hidden import branched_hidden
from pilot.ops.patched_attention import patched_attention


class Operators(NamedTuple):
    """pilot.ops.patched_attention and pilot.ops.branched_hidden, each in one implementation."""

    patched_attention: Callable[..., Tensor]
    branched_hidden: Callable[..., Any]

    @classmethod
    def of(cls, impl: str) -> Operators:
        """Those of "fused" or "eager"."""
        return cls(partial(patched_attention, impl=impl), partial(branched_hidden, impl=impl))
