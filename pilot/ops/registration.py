"""How an operator is made known to PyTorch: its schema, its eager twin as the default, its C++ kernels where they load.

The dispatcher chooses: a kernel that csrc/ registers for a device takes the place of the eager twin there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pilot.ops.dispatch import why_not_built


def register(name: str, schema: str, eager: Callable[..., object], check: Callable[..., None]) -> Callable[..., None]:
    """Define torch.ops.pilot.`name`, which writes its results to `out` and returns nothing; returns what calls it.

    eager   the twin, which calls `check`
    check   raises in words for arguments that do not fit; takes the operator's, without their values

    The first call on a CPU loads the kernels, which may compile them; where that fails it is warned of once, and the
    eager twin runs. A kernel refuses whatever is unsafe or has no meaning, without many words: only then `check` looks
    for them, so that a call that is right pays for no checks in Python.
    """
    torch.library.define(f"pilot::{name}", schema)
    torch.library.register_fake(f"pilot::{name}", check)
    operator = getattr(torch.ops.pilot, name).default

    @torch.no_grad()
    def default(*arguments: object, out: torch.Tensor, **options: object) -> None:
        """Reached where no kernel is registered: on a CPU, only until they are loaded."""
        if out.device.type == "cpu" and why_not_built("cpu", warn=True) is None:
            operator(*arguments, **options, out=out)
        else:
            eager(*arguments, **options, out=out)

    torch.library.impl(f"pilot::{name}", "default", default)

    def call(*arguments: object, out: torch.Tensor, **options: object) -> None:
        try:
            operator(*arguments, **options, out=out)
        except (RuntimeError, IndexError):
            check(*arguments, **options, out=out)
            raise

    return call
