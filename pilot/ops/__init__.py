"""The C++ and CUDA operators, their eager twins in PyTorch, and how they are built.

The functions have the names of their modules, which `from pilot.ops.patched_attention import ...` still reaches.
"""

from pilot.ops.branched_attention import branched_attention, eager_branched_attention
from pilot.ops.branched_mlp import branched_mlp, eager_branched_mlp
from pilot.ops.causal_attention import causal_attention, eager_causal_attention
from pilot.ops.patched_attention import eager_patched_attention, patched_attention
from pilot.ops.product import eager_product, product

__all__ = [
    "branched_attention",
    "branched_mlp",
    "causal_attention",
    "eager_branched_attention",
    "eager_branched_mlp",
    "eager_causal_attention",
    "eager_patched_attention",
    "eager_product",
    "patched_attention",
    "product",
]
