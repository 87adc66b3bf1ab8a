"""The sweep of all 65,536 sets of heads on a GPU, on the pilot's default sizes; compared with hooks first."""

from __future__ import annotations

import pytest
import torch

from pilot.interventions import head_subsets, single_heads
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep import SweepEngine

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU here to time", allow_module_level=True)

PAIRS, SEQ = 256, 16


@pytest.mark.parametrize("impl", ["fused", "eager"])
@torch.no_grad()
def test_exhaustive_sweep_on_a_gpu(benchmark, impl):
    torch.manual_seed(0)
    model = PilotTransformer(ModelConfig()).eval().cuda()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.1)  # larger than at the start of training: patches should matter
    sets = head_subsets([patch for (patch,) in single_heads(model)])
    recipient, donor = torch.randint(model.config.vocab_size, (2, PAIRS, SEQ))
    donor[:, 0] = recipient[:, 0]
    read, tokens = torch.full((PAIRS, 1), SEQ - 1), torch.tensor([[0, 1]]).expand(PAIRS, -1)
    engine, sample = SweepEngine(model, impl), sets[:: len(sets) // 16]
    want = SweepEngine(model, "reference").run(recipient, donor, sample, read=read, tokens=tokens)
    torch.testing.assert_close(
        engine.run(recipient, donor, sample, read=read, tokens=tokens), want, atol=1e-3, rtol=1e-3
    )

    def sweep():
        engine.run(recipient, donor, sets, read=read, tokens=tokens)
        torch.cuda.synchronize()

    benchmark.pedantic(sweep, rounds=3, warmup_rounds=1)
    benchmark.extra_info.update(impl=impl, gpu=torch.cuda.get_device_name(), pairs=PAIRS, sets=len(sets))
