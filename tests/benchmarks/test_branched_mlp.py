"""branched_mlp beside its eager twin, and beside the matrix product in it, at the sizes of two models.

Results are compared before anything is timed, and no time fails a test.
"""

from __future__ import annotations

import pytest
import torch
from support.project import no_compiler

from pilot.ops import branched_mlp, eager_branched_mlp

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

# N, C, B, W, K, d, m, activation. Pilot: all subsets of four heads of one node, and of nodes at the last layer; single
# heads; no patch. SmolLM2: a node with few branches, and many nodes.
SHAPES = [
    (1, 16, 4, 16, 4, 128, 384, "gelu"),
    (16, 16, 4, 1, 4, 128, 384, "gelu"),
    (4, 16, 16, 16, 4, 128, 384, "gelu"),
    (1, 4, 16, 16, 4, 128, 384, "gelu"),
    (64, 1, 1, 16, 0, 128, 384, "gelu"),
    (1, 4, 16, 5, 2, 576, 1536, "silu_gated"),
    (8, 2, 16, 5, 1, 576, 1536, "silu_gated"),
]
IMPLEMENTATIONS = {"fused": branched_mlp, "eager": eager_branched_mlp}


def arguments_of(N: int, C: int, B: int, W: int, K: int, d: int, m: int, activation: str):
    torch.manual_seed(0)
    h = 2 * m if activation.endswith("_gated") else m
    state, terms = torch.randn(N, B, W, d + h), torch.randn(K, N, B, W, d + h)
    subsets = torch.arange(C)[:, None] >> torch.arange(K) & 1 == 1
    member = subsets[:, None, None].expand(C, B, W, K)
    return state, terms, member, torch.randn(h), torch.randn(d), torch.randn(m, d) / m**0.5, 1e-5, activation


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s[:4])) + "-" + "-".join(map(str, s[4:])))
@torch.no_grad()
def test_branched_mlp(benchmark, best_time, shape, impl):
    (n, c, b, w, k, d, m, _), arguments = shape, arguments_of(*shape)
    rows, mlp_out = n * c * b * w, arguments[5]
    out, expected = torch.empty(n, c, b, w, d), torch.empty(n, c, b, w, d)
    IMPLEMENTATIONS[impl](*arguments, out=out)
    eager_branched_mlp(*arguments, out=expected)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)

    benchmark.group = f"{n}x{c}x{b}x{w}, {k}, {d}x{m}"
    iterations = max(1, 2**29 // (rows * m * d))
    benchmark.pedantic(
        IMPLEMENTATIONS[impl], arguments, {"out": out}, rounds=20, iterations=iterations, warmup_rounds=1
    )
    hidden, product = torch.randn(rows, m), torch.empty(rows, d)
    benchmark.extra_info.update(
        table="branched_mlp",
        impl=impl,
        product_seconds=best_time(lambda: torch.mm(hidden, mlp_out, out=product), 0.2) if benchmark.enabled else None,
    )
