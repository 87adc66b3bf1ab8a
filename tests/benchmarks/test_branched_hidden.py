"""branched_hidden beside its eager twin, and beside the matrix product that follows it, at the model's default sizes.

Results are compared before anything is timed, and no time fails a test.
"""

from __future__ import annotations

import pytest
import torch
from support.project import no_compiler

from pilot.models.transformer import ModelConfig
from pilot.ops import branched_hidden, build

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

# N, C, B, W, K: all subsets of four heads of one node, and of nodes at the last layer; single heads; no patch
SHAPES = [(1, 16, 4, 16, 4), (16, 16, 4, 1, 4), (4, 16, 16, 16, 4), (1, 4, 16, 16, 4), (64, 1, 1, 16, 0)]
D_MODEL, D_MLP = ModelConfig().d_model, ModelConfig().d_mlp


def arguments_of(N: int, C: int, B: int, W: int, K: int):
    torch.manual_seed(0)
    state, terms = torch.randn(N, B, W, D_MODEL + D_MLP), torch.randn(K, N, B, W, D_MODEL + D_MLP)
    subsets = torch.arange(C)[:, None] >> torch.arange(K) & 1 == 1
    return state, terms, subsets[:, None, None].expand(C, B, W, K), torch.randn(D_MLP), torch.randn(D_MODEL), 1e-5


@pytest.mark.parametrize("impl", ["fused", "eager"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s[:4])) + f"-{s[4]}")
@torch.no_grad()
def test_branched_hidden(benchmark, best_time, shape, impl):
    arguments, rows = arguments_of(*shape), torch.Size(shape[:4]).numel()
    outputs, expected = (
        {name: torch.empty(*shape[:4], size) for name, size in (("hidden", D_MLP), ("after", D_MODEL))}
        for _ in range(2)
    )
    branched_hidden(*arguments, impl=impl, **outputs)
    branched_hidden(*arguments, impl="eager", **expected)
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)

    benchmark.group = "x".join(map(str, shape[:4])) + f", {shape[4]}"
    options = {"impl": impl, **outputs}
    iterations = max(1, 8192 // rows)
    benchmark.pedantic(branched_hidden, arguments, options, rounds=20, iterations=iterations, warmup_rounds=1)

    hidden, after = (outputs[name].flatten(0, 3) for name in ("hidden", "after"))
    mlp_out = torch.randn(D_MLP, D_MODEL)
    benchmark.extra_info.update(
        impl=impl,
        threads=torch.get_num_threads(),
        instruction_set=build.build_facts()["instruction_set"],
        rows=rows,
        product_seconds=best_time(lambda: after.addmm_(hidden, mlp_out), 0.2) if benchmark.enabled else None,
    )
