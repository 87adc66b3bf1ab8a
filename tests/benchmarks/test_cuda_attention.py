"""The operator on a GPU beside eager and beside scaled_dot_product_attention with a where, on the same arguments.

Outputs are compared before anything is timed, and no time fails a test. What pytest-benchmark times is one replay of a
captured graph and the wait for it; `device_ms` is the median time between two events around a replay, and the figures
are made from that. `pytest -s` prints them.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU here to time", allow_module_level=True)

from pilot.ops import build

build.load("cuda")

# P, T, H, D, fan-out, dtype
SHAPES = [
    (65536, 16, 4, 32, 1, torch.float32),
    (4096, 16, 4, 32, 16, torch.float32),
    (32768, 16, 4, 32, 1, torch.bfloat16),  # FlashAttention takes at most 65,535 rows: they are its grid's y
    (16384, 22, 4, 32, 1, torch.float32),
    (4096, 64, 4, 32, 1, torch.float32),
    (4096, 64, 4, 32, 1, torch.bfloat16),
    (16, 1024, 16, 64, 1, torch.bfloat16),
    (16, 1024, 16, 128, 1, torch.bfloat16),
    (16, 1024, 16, 64, 4, torch.bfloat16),
    (8, 1024, 12, 64, 1, torch.float32),
]


def fused(q, k, v, source, parent, source_row, replace, out):
    torch.ops.pilot.patched_attention(q, k, v, source, parent, source_row, replace, out=out)


def patched(z, source, parent, source_row, replace, out):
    torch.where(replace.unsqueeze(-1), source.index_select(0, source_row), z.index_select(0, parent), out=out)


def sdpa(q, k, v, source, parent, source_row, replace, out):
    z = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)
    patched(z, source, parent, source_row, replace, out)


def sdpa_alone(q, k, v, source, parent, source_row, replace, out):
    """No patching at all: what the fused operator is to be no slower than 1.3 times."""
    F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True)


def eager(q, k, v, source, parent, source_row, replace, out):
    T, D = q.shape[1], q.shape[3]
    future = torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    z = ((q / math.sqrt(D)) @ k.transpose(-1, -2) + future).softmax(-1) @ v
    patched(z.transpose(1, 2), source, parent, source_row, replace, out)


IMPLEMENTATIONS = {"fused": fused, "eager": eager, "sdpa": sdpa, "sdpa alone": sdpa_alone}


def arguments_of(P: int, T: int, H: int, D: int, fan_out: int, dtype: torch.dtype, replaced: bool):
    """q, k, v as a projection packs them; one head in four replaced, or none."""
    torch.manual_seed(0)
    q, k, v = torch.randn(P, T, 3, H, D, device="cuda", dtype=dtype).unbind(2)
    parent = torch.arange(P, device="cuda").repeat_interleave(fan_out)
    first_head = torch.arange(P * fan_out, device="cuda") % 4
    replace = (torch.arange(H, device="cuda") % 4 == first_head[:, None])[:, None].expand(-1, T, -1) & replaced
    return q, k, v, torch.randn_like(q), parent, parent.clone(), replace.contiguous()


def work(P: int, T: int, H: int, D: int, fan_out: int, dtype: torch.dtype, replaced: bool) -> tuple[int, int]:
    """(FLOPs that cannot be avoided, bytes that must move). A head that some child keeps has to be computed."""
    computed = P * H * 3 // 4 if replaced and fan_out == 1 else P * H
    copied = P * fan_out * H // 4 if replaced else 0
    flops = computed * (T * (T + 1) // 2) * D * 2 * 2
    return flops, (3 * computed + copied + P * fan_out * H) * T * D * dtype.itemsize


def device_seconds(run, repeats: int = 20) -> float:
    """Median of single runs, each between two events."""
    run()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in events)[repeats // 2] / 1e3


@cache
def copy_bandwidth() -> float:
    x = torch.randn(2**28, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.nbytes / device_seconds(lambda: y.copy_(x))


@cache
def gemm_rate(dtype: torch.dtype) -> float:
    x = torch.randn(8192, 8192, device="cuda", dtype=dtype)
    y = torch.empty_like(x)
    return 2 * 8192**3 / device_seconds(lambda: torch.mm(x, x, out=y))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("replaced", [False, True], ids=["none", "one in four"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s[:4])) + f"-{s[4]}-{s[5]}")
@torch.no_grad()
def test_cuda_attention(benchmark, shape, replaced, impl):
    arguments = arguments_of(*shape, replaced)
    out = torch.full((len(arguments[4]), *shape[1:4]), math.nan, device="cuda", dtype=shape[5])
    implementation = IMPLEMENTATIONS[impl]
    implementation(*arguments, out)
    if impl != "sdpa alone":
        expected = torch.empty_like(out)
        eager(*arguments, expected)
        close = {"atol": 3e-2, "rtol": 3e-2} if shape[5] == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(out, expected, **close)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        implementation(*arguments, out)

    def replay():
        graph.replay()
        torch.cuda.synchronize()

    name = "x".join(map(str, shape[:4])) + f", {shape[4]}, {str(shape[5])[6:]}"
    benchmark.group = f"cuda {name}, {'one head in four' if replaced else 'none'} replaced"
    benchmark.pedantic(replay, rounds=20, warmup_rounds=3)
    seconds = device_seconds(graph.replay)
    flops, moved = work(*shape, replaced)
    benchmark.extra_info.update(
        impl=impl,
        gpu=torch.cuda.get_device_name(),
        device_ms=seconds * 1e3,
        flops=flops,
        bytes=moved,
        fraction_of_gemm_rate=flops / seconds / gemm_rate(shape[5]),
        fraction_of_copy_bandwidth=moved / seconds / copy_bandwidth(),
    )
    print(
        f"\n{benchmark.group}: {impl:>10} {seconds * 1e3:8.3f} ms, {moved / seconds / 1e12:5.2f} TB/s "
        f"({moved / seconds / copy_bandwidth():4.0%} of copy), {flops / seconds / 1e12:6.1f} TFLOP/s"
    )
