"""Sweeps: many interventions over many pairs. The package can be called as its function `sweep`.

`pilot.sweep` is the name of a function and of this package; so that both can be meant by it, whichever is imported
first, the package's module is callable.
"""

import sys
from types import ModuleType

from pilot.sweep.engine import SweepEngine, sweep

__all__ = ["SweepEngine", "sweep"]


class _CallableModule(ModuleType):
    __call__ = staticmethod(sweep)


sys.modules[__name__].__class__ = _CallableModule
