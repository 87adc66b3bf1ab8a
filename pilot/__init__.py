"""Exact activation patching of attention heads: single heads, positions, and every set of up to 20 heads.

Names are imported when they are first used, so that `import pilot` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilot.interventions import HeadPatch, head_subsets, single_heads, single_positions
    from pilot.language.load import load_model
    from pilot.ops.patched_attention import patched_attention
    from pilot.sweep import SweepEngine, sweep

__all__ = [
    "HeadPatch",
    "SweepEngine",
    "head_subsets",
    "load_model",
    "patched_attention",
    "single_heads",
    "single_positions",
    "sweep",
]

_MODULES = {
    "HeadPatch": "pilot.interventions",
    "SweepEngine": "pilot.sweep",
    "head_subsets": "pilot.interventions",
    "load_model": "pilot.language.load",
    "patched_attention": "pilot.ops.patched_attention",
    "single_heads": "pilot.interventions",
    "single_positions": "pilot.interventions",
}


def __getattr__(name: str) -> Any:
    if name == "sweep":  # a package that can be called (pilot.sweep)
        return import_module("pilot.sweep")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pilot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
