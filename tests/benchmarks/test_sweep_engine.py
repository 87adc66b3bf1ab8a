"""The sweep engine beside whole forwards, on the model's default sizes: pairs of 16 tokens, one position read or four.

On the CPU, and on a GPU where there is one.

Results are compared before anything is timed, and no time fails a test. The reference runs at the best of three batch
sizes, on a sample. FLOPs are what the plan counts (support.flops), beside the rate that the same run measured for the
engine's own largest matrix product.
"""

from __future__ import annotations

import time

import pytest
import torch
from support.flops import count_work, unpatched_flops
from support.project import no_compiler

from pilot.interventions import head_subsets, single_heads, single_positions
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep import SweepEngine, sweep
from pilot.sweep.lowering import lower
from pilot.sweep.plan import Planner

if reason := no_compiler():
    pytest.skip(reason, allow_module_level=True)

PAIRS, EXHAUSTIVE_PAIRS, SEQ = 512, 256, 16
CONFIG = ModelConfig()
SINGLE = single_heads(CONFIG)
FAMILIES = {
    "single heads": SINGLE,
    "heads x positions": single_positions(CONFIG, SEQ),
    "65,536 subsets": head_subsets(tuple(patch for (patch,) in SINGLE)),
}
READS = {"one position": 1, "whole answer": 4}
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="module", params=DEVICES)
def model(request) -> PilotTransformer:
    torch.manual_seed(0)
    model = PilotTransformer(CONFIG).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.1)  # larger than at the start of training: patches should matter
    return model.to(request.param)


def pairs_of(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Recipients and donors that share the opening marker and no more."""
    torch.manual_seed(1)
    recipient, donor = torch.randint(0, CONFIG.vocab_size, (2, number, SEQ))
    donor[:, 0] = recipient[:, 0]
    donor[:, 1] = (recipient[:, 1] + 1) % CONFIG.vocab_size
    return recipient, donor


def last_positions(number: int, reads: int) -> torch.Tensor:
    return torch.arange(SEQ - reads, SEQ).expand(number, -1)


@pytest.fixture(scope="module")
def forward_rate(model) -> float:
    """Patched forwards a second of the reference, at its best batch size."""
    recipient, donor = pairs_of(PAIRS)
    interventions, read, engine = SINGLE[::4], last_positions(PAIRS, 1), SweepEngine(model, "reference")

    def seconds(batch: int) -> float:
        start = time.perf_counter()
        engine.rows = batch * SEQ
        engine.run(recipient, donor, interventions, read=read)
        return time.perf_counter() - start

    return len(interventions) * PAIRS / min(seconds(batch) for batch in (64, 128, 512) for _ in range(2))


@pytest.fixture(scope="module")
def own_gemm_rate(model, best_time) -> float:
    """Float32 operations a second of the second half of the MLP, on as many rows as the engine computes at a time."""
    rows = SweepEngine(model, "eager").rows
    shapes = [(rows, CONFIG.d_mlp), (CONFIG.d_mlp, CONFIG.d_model), (rows, CONFIG.d_model)]
    hidden, matrix, out = (torch.randn(shape, device=model.unembed.weight.device) for shape in shapes)

    def product():
        out.addmm_(hidden, matrix, beta=0)
        if out.is_cuda:
            torch.cuda.synchronize()

    return 2 * rows * CONFIG.d_mlp * CONFIG.d_model / best_time(product, 0.5)


@pytest.mark.parametrize("impl", ["fused", "eager"])
@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sweep(benchmark, model, family, reads, impl, request):
    interventions, n_reads = FAMILIES[family], READS[reads]
    few = pairs_of(4)
    sample = interventions[:: max(1, len(interventions) // 64)]
    read = last_positions(4, n_reads)
    want = sweep(model, *few, sample, read=read, impl="reference")
    torch.testing.assert_close(sweep(model, *few, sample, read=read, impl=impl), want, atol=1e-4, rtol=1e-4)
    assert (want - want[:1]).abs().max() > 0.1

    def measure(logits, pair):  # as small as a logit difference
        return logits[:, :, 0] - logits[:, :, 1]

    if not benchmark.enabled:
        benchmark.pedantic(sweep, (model, *few, sample), {"read": read, "impl": impl, "measure": measure})
        return
    exhaustive = len(interventions) > 1000
    pairs = EXHAUSTIVE_PAIRS if exhaustive else PAIRS
    on_gpu = model.unembed.weight.is_cuda
    benchmark.group = f"{pairs} pairs x {family}, {reads}{', GPU' if on_gpu else ''}"
    arguments = (model, *pairs_of(pairs), interventions)
    options = {"read": last_positions(pairs, n_reads), "impl": impl, "measure": measure}
    benchmark.pedantic(sweep, arguments, options, rounds=1 if exhaustive else 5, warmup_rounds=0 if exhaustive else 1)

    seconds = benchmark.stats.stats.min
    plan = Planner(interventions, CONFIG.n_layers).plan(1, tuple(range(SEQ - n_reads, SEQ)))
    program = lower(model)
    flops = pairs * (count_work(plan, program, n_reads).flops + 2 * unpatched_flops(plan, program))
    rate = request.getfixturevalue("forward_rate")
    gemm_rate = request.getfixturevalue("own_gemm_rate")
    benchmark.extra_info.update(
        impl=impl,
        device=torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads",
        forwards=len(interventions) * pairs,
        speedup=len(interventions) * pairs / rate / seconds,
        reference_rate=rate,
        flops=flops,
        gemm_rate=gemm_rate,
        fraction_of_gemm_rate=flops / seconds / gemm_rate,
    )
