import pytest
import torch

from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep.buffers import Buffers
from pilot.sweep.executor import Executor
from pilot.sweep.folded import fold
from pilot.sweep.operators import Operators
from pilot.sweep.plan import Planner


@pytest.fixture
def model() -> PilotTransformer:
    torch.manual_seed(3)
    model = PilotTransformer(ModelConfig(n_layers=2, n_heads=3, d_model=12, d_mlp=10, context=6))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.double().eval()


@pytest.mark.parametrize("reads", [(0, 5), (5,)], ids=["usual attention", "absorbed in the last layer"])
def test_the_folded_model_gives_the_same_head_outputs(model, reads):
    ids = torch.randint(0, 17, (4, 6))
    model(ids)
    plan = Planner(((),), model.config.n_layers).plan(0, reads)
    folded = fold(model)
    executor = Executor(folded, Operators.of("eager"), Buffers(folded.tokens), rows=100)
    runs = executor.unpatched("recipient", ids, plan)
    assert [run.absorbed for run in runs] == [False, reads == (5,)]
    for block, run in zip(model.blocks, runs, strict=True):
        torch.testing.assert_close(run.z, block.attn.last_head_output[:, run.start :])
    assert [run.start for run in runs] == [0, reads[0]]


def test_nothing_writes_a_mean_to_the_residual_stream(model):
    folded = fold(model)
    writes = [folded.tokens, folded.positions]
    for block in folded.blocks:
        writes += [block.out, block.out_bias, block.mlp_out, block.mlp_out_bias, block.head_state[..., :12]]
    for write in writes:
        torch.testing.assert_close(write.mean(-1), torch.zeros(write.shape[:-1], dtype=torch.double))


def test_weights_keep_the_models_precision(model):
    folded = fold(model.float())
    assert {tensor.dtype for tensor in vars(folded.blocks[0]).values() if torch.is_tensor(tensor)} == {torch.float32}
