"""How an operator is made known to PyTorch: its schema, its eager twin as the default, its C++ kernels where they load.

The dispatcher chooses: a kernel that csrc/ registers for a device takes the place of the eager twin there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pilot.ops.dispatch import why_not_built


def register(name: str, schema: str, eager: Callable[..., None]) -> Callable[..., None]:
    """Define torch.ops.pilot.`name`, which writes its results to `out` and returns nothing; returns what calls it.

    The first call on a CPU loads the kernels, which may compile them; where that fails it is warned of once, and the
    eager twin runs.
    """
    torch.library.define(f"pilot::{name}", schema)
    torch.library.impl(f"pilot::{name}", "default", eager)
    torch.library.register_fake(f"pilot::{name}", lambda *arguments, **options: None)
    operator = getattr(torch.ops.pilot, name).default

    def call(*arguments: object, out: torch.Tensor, **options: object) -> None:
        if out.device.type == "cpu":
            why_not_built("cpu", warn=True)
        operator(*arguments, **options, out=out)

    return call
