"""The life of an engine: it is made ready once, holds itself against its model, and notices when the weights change."""

import pytest
import torch
from support.llama_like import llama_like
from support.pretended_gpu import pretended_gpu
from support.project import no_compiler

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, head_subsets, single_heads
from pilot.models.hooks import head_outputs, replaced
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep import SweepEngine, engine, sweep
from pilot.sweep.executor import Executor

needs_compiler = pytest.mark.skipif(no_compiler() is not None, reason=str(no_compiler()))
IMPLS = ["reference", "eager", pytest.param("fused", marks=needs_compiler)]
LAST = torch.full((4, 1), 5)


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    recipient, donor = torch.randint(0, 17, (2, 4, 6))
    return recipient, donor


@pytest.fixture
def lowered(monkeypatch) -> list[torch.nn.Module]:
    """The models that were lowered."""
    models, lower = [], engine.lower
    monkeypatch.setattr(engine, "lower", lambda model: models.append(model) or lower(model))
    return models


@pytest.mark.parametrize("impl", IMPLS)
def test_one_engine_gives_what_fresh_ones_give(small_model, pairs, impl):
    kept = SweepEngine(small_model, impl)
    for interventions in (single_heads(small_model), head_subsets([HeadPatch(0, 1), HeadPatch(2, 0)]), [()]):
        for donor in (pairs[1], head_outputs(small_model, pairs[1])):
            fresh = sweep(small_model, pairs[0], donor, interventions, read=LAST, impl=impl)
            for _ in range(2):
                assert torch.equal(kept.run(pairs[0], donor, interventions, read=LAST), fresh)


def test_predictions_are_the_most_likely_tokens(small_model, pairs):
    made = SweepEngine(small_model)
    logits = made.run(*pairs, single_heads(small_model), read=LAST)
    assert torch.equal(made.predict(*pairs, single_heads(small_model), LAST), logits.argmax(-1))


def test_a_model_is_folded_once(small_model, pairs, lowered):
    kept = SweepEngine(small_model, "eager")
    for _ in range(3):
        kept.run(*pairs, single_heads(small_model), read=LAST)
    assert lowered == [small_model]
    SweepEngine(small_model, "reference")
    assert lowered == [small_model]


def test_donors_and_recipients_run_together_and_once_where_they_are_the_same(small_model, pairs, monkeypatch):
    recipient, donor = pairs
    made, n, rows = SweepEngine(small_model), len(recipient), []

    def unpatched(executor, ids, plan, buffers, run=Executor.unpatched):
        rows.append(len(ids))
        return run(executor, ids, plan, buffers)

    monkeypatch.setattr(Executor, "unpatched", unpatched)
    z = head_outputs(small_model, donor)
    for source, runs in ((donor, 2 * n), (recipient, n), (z, n)):
        made.run(recipient, source, single_heads(small_model), read=LAST)
        assert sum(rows) == runs
        rows.clear()


def write_in_place(model: PilotTransformer) -> None:
    with torch.no_grad():
        model.blocks[1].mlp_in.weight.mul_(-1)


def load_other_weights(model: PilotTransformer) -> None:
    model.load_state_dict({name: -value for name, value in model.state_dict().items()})


def change_precision(model: PilotTransformer) -> None:
    model.double()


@pytest.mark.parametrize("change", [write_in_place, load_other_weights, change_precision])
def test_changed_weights_are_folded_again(small_model, pairs, lowered, change):
    kept = SweepEngine(small_model, "eager")
    before = kept.run(*pairs, single_heads(small_model), read=LAST)
    change(small_model)
    after = kept.run(*pairs, single_heads(small_model), read=LAST)
    want = sweep(small_model, *pairs, single_heads(small_model), read=LAST, impl="reference")
    torch.testing.assert_close(after, want)
    assert not torch.equal(after, before)
    assert len(lowered) == 2


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_the_mode_of_the_model_makes_no_difference(small_model, pairs, impl, train):
    want = sweep(small_model, *pairs, single_heads(small_model), read=LAST, impl="reference")
    got = sweep(small_model.train(train), *pairs, single_heads(small_model), read=LAST, impl=impl)
    torch.testing.assert_close(got, want)
    assert small_model.training == train


class TwiceAsSure(PilotTransformer):
    def forward(self, input_ids, read=None):
        return 2 * super().forward(input_ids, read)


def test_a_model_that_the_engine_does_not_reproduce_is_refused(pairs):
    torch.manual_seed(0)
    model = TwiceAsSure(ModelConfig(n_layers=2, n_heads=2, d_model=8, d_mlp=12, context=10)).eval()
    with pytest.raises(PilotError, match="does not reproduce the logits of this TwiceAsSure: they differ by up to"):
        SweepEngine(model)
    want = 2 * sweep(model, *pairs, [()], read=LAST, impl="reference")
    torch.testing.assert_close(sweep(model, *pairs, [()], read=LAST, impl="reference") * 2, want)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_diverged_model_gives_nan(small_model, pairs, impl):
    with torch.no_grad():
        small_model.blocks[1].mlp_in.weight[0, 0] = torch.nan
    assert sweep(small_model, *pairs, single_heads(small_model), read=LAST, impl=impl).isnan().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_patch_that_was_left_set_is_refused(small_model, pairs, impl):
    made = SweepEngine(small_model, impl)
    attn = small_model.blocks[1].attn
    attn.patch_head_index, attn.patch_head_output = 0, torch.zeros(1, 6, 4)
    message = r"blocks\.1\.attn\.patch_head_index is set: .* set it to None first"
    with pytest.raises(PilotError, match=message):
        made.run(*pairs, [()], read=LAST)
    with pytest.raises(PilotError, match=message):
        sweep(small_model, *pairs, [()], read=LAST, impl=impl)
    assert attn.patch_head_index == 0


def test_the_implementation_is_decided_once(small_model, monkeypatch):
    assert SweepEngine(small_model, "eager").impl == "eager"
    assert SweepEngine(small_model, "reference").impl == "reference"
    with pytest.raises(PilotError, match="impl must be auto, fused, eager or reference, not 'cuda'"):
        SweepEngine(small_model, "cuda")
    chosen = []
    monkeypatch.setattr(engine, "runs_fused", lambda impl, weight: bool(chosen.append(impl)))
    made = SweepEngine(small_model, "auto")
    made.run(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64), [()], read=torch.tensor([[2]]))
    assert (made.impl, chosen) == ("eager", ["auto"])


def test_a_model_that_the_engine_does_not_know_runs_whole(pairs):
    model = llama_like()
    with pytest.warns(UserWarning, match="run the whole model for every intervention: .* cannot lower a LlamaLike"):
        made = SweepEngine(model)
    assert made.impl == "reference"
    interventions = [(), (HeadPatch(0, 3),), (HeadPatch(1, 2, 1, 4), HeadPatch(2, 0))]
    got = made.run(*pairs, interventions, read=LAST)
    for i, intervention in enumerate(interventions):
        with replaced(model, intervention, head_outputs(model, pairs[1])):
            torch.testing.assert_close(got[i], model(pairs[0]).logits[:, 5:])
    with pytest.raises(PilotError, match="cannot lower a LlamaLike: use impl='reference'"):
        SweepEngine(model, "eager")


def test_heads_too_wide_for_the_operators_run_whole():
    model = PilotTransformer(ModelConfig(n_layers=1, n_heads=1, d_model=260, d_mlp=4, context=4))
    with pytest.warns(UserWarning, match="heads of at most 256 dimensions, these have 260"):
        assert SweepEngine(model).impl == "reference"
    with pytest.raises(PilotError, match="these have 260: use impl='reference'"):
        SweepEngine(model, "fused")


@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize("donor_as", ["tokens", "head outputs"])
@pytest.mark.parametrize("model_on", ["cpu", "cuda"])
def test_pairs_may_be_on_a_gpu(small_model, pairs, impl, donor_as, model_on, monkeypatch):
    recipient, donor = pairs
    outputs = [z.detach() for z in head_outputs(small_model, donor)]
    interventions = head_subsets(tuple(head for (head,) in single_heads(small_model)))
    want = sweep(small_model, recipient, donor, interventions, read=LAST, impl=impl)
    with pretended_gpu(monkeypatch):
        there = donor.to("cuda") if donor_as == "tokens" else [z.to("cuda") for z in outputs]
        model = small_model.to(model_on)
        got = sweep(model, recipient.to("cuda"), there, interventions, read=LAST.to("cuda"), impl=impl)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
