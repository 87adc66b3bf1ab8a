"""Sweeps: many interventions over many pairs.

`pilot.sweep` names both this package and the function in it, so the package itself can be called: `pilot.sweep(...)`
and `from pilot import sweep` work whatever was imported first.
"""

import sys
from types import ModuleType

from pilot.sweep.engine import SweepEngine, sweep

__all__ = ["SweepEngine", "sweep"]


class _CallableModule(ModuleType):
    __call__ = staticmethod(sweep)


sys.modules[__name__].__class__ = _CallableModule
