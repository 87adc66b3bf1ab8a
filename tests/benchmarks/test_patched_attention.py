"""The operator beside its eager twin and beside scaled_dot_product_attention with a where, on the same arguments.

Outputs are compared before anything is timed, and no time fails a test. One head in four is replaced, `out` is reused.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.project import no_compiler

from pilot.ops import build, eager_patched_attention, patched_attention

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

build.load()

# P, T, H, D, fan-out
SHAPES = [
    (256, 16, 4, 32, 1),
    (64, 16, 4, 32, 4),
    (64, 16, 4, 32, 16),
    (256, 22, 4, 32, 1),
    (256, 64, 4, 32, 1),
    (8, 256, 12, 64, 1),
    (4, 1024, 12, 64, 1),
]


def sdpa(q, k, v, source, parent, source_row, replace, *, out):
    z = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)
    return torch.where(replace.unsqueeze(-1), source.index_select(0, source_row), z.index_select(0, parent), out=out)


def fused(*arguments, out):
    return patched_attention(*arguments, impl="fused", out=out)


IMPLEMENTATIONS = {"fused": fused, "eager": eager_patched_attention, "sdpa": sdpa}


def arguments_of(P: int, T: int, H: int, D: int, fan_out: int):
    """q, k, v as a projection packs them; of each parent's children, every one has other heads replaced."""
    torch.manual_seed(0)
    q, k, v = torch.randn(P, T, 3, H, D).unbind(2)
    parent = torch.arange(P).repeat_interleave(fan_out)
    first_head = torch.arange(P * fan_out) % 4
    replace = (torch.arange(H) % 4 == first_head[:, None])[:, None].expand(-1, T, -1).contiguous()
    return q, k, v, torch.randn(P, T, H, D), parent, parent.clone(), replace


def work(P: int, T: int, H: int, D: int, fan_out: int) -> tuple[int, int]:
    """(FLOPs that cannot be avoided, bytes that must move). A head that some child keeps has to be computed."""
    computed = P * H if fan_out > 1 else P * H * 3 // 4
    flops = computed * (T * (T + 1) // 2) * D * 2 * 2
    values = 3 * computed * T * D + 2 * P * fan_out * T * H * D // 4 + P * fan_out * T * H * D * 3 // 4
    return flops, 4 * values


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s[:4])) + f"-{s[4]}")
@torch.no_grad()
def test_patched_attention(benchmark, best_time, shape, impl, copy_bandwidth, gemm_rate):
    arguments = arguments_of(*shape)
    out = torch.empty(arguments[4].shape[0], *arguments[0].shape[1:])
    implementation = IMPLEMENTATIONS[impl]
    expected = eager_patched_attention(*arguments)
    torch.testing.assert_close(implementation(*arguments, out=out), expected)

    benchmark.group = "x".join(map(str, shape[:4])) + f", {shape[4]}"
    # Rounds of at least 5 ms, half a second of them: short enough that the three implementations see the same machine.
    once = best_time(lambda: implementation(*arguments, out=out), 0.05) if benchmark.enabled else 1.0
    iterations = max(1, round(0.005 / once))
    rounds = min(100, max(5, round(0.5 / (iterations * once))))
    benchmark.pedantic(implementation, arguments, {"out": out}, rounds=rounds, iterations=iterations, warmup_rounds=1)

    flops, moved = work(*shape)
    benchmark.extra_info.update(
        table="patched_attention",
        impl=impl,
        threads=torch.get_num_threads(),
        instruction_set=build.build_facts()["instruction_set"],
        flops=flops,
        bytes=moved,
        copy_bandwidth=copy_bandwidth,
        gemm_rate=gemm_rate,
    )
    if benchmark.enabled:
        seconds = benchmark.stats.stats.min
        benchmark.extra_info["fraction_of_gemm_rate"] = flops / seconds / gemm_rate
        benchmark.extra_info["fraction_of_copy_bandwidth"] = moved / seconds / copy_bandwidth
