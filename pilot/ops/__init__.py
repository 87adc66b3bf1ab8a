"""The C++ and CUDA operators, their eager twins in PyTorch, and how they are built.

The functions have the names of their modules, which `from pilot.ops.patched_attention import ...` still reaches.
"""

from pilot.ops.branched_hidden import branched_hidden, eager_branched_hidden
from pilot.ops.patched_attention import eager_patched_attention, patched_attention

__all__ = ["branched_hidden", "eager_branched_hidden", "eager_patched_attention", "patched_attention"]
