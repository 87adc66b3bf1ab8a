from types import SimpleNamespace

import pytest
import torch
from support.llama_like import llama_like
from torch import nn

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, single_heads
from pilot.models.hooks import attention_patterns, head_outputs, output_projections, replaced


def logits_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.fixture(params=["pilot", "llama-like"])
def any_model(request, small_model) -> nn.Module:
    return small_model if request.param == "pilot" else llama_like()


def left_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_head_outputs_are_what_the_output_projections_read(any_model):
    ids, read = torch.randint(0, 17, (5, 7)), []
    handles = [
        projection.register_forward_pre_hook(lambda _, args: read.append(args[0]))
        for projection in output_projections(any_model)
    ]
    outputs = head_outputs(any_model, ids)
    for handle in handles:
        handle.remove()
    heads = (2, 4) if hasattr(any_model, "blocks") else (4, 5)
    assert [tuple(z.shape) for z in outputs] == [(5, 7, *heads)] * 3
    for z, x in zip(outputs, read, strict=True):
        assert torch.equal(z.flatten(2), x)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_head_outputs_are_those_of_this_input_in_either_mode(any_model, mode):
    ids, other = torch.randint(0, 17, (2, 3, 6))
    want = head_outputs(any_model, ids)
    any_model.train(mode)
    head_outputs(any_model, other)
    for z, again in zip(want, head_outputs(any_model, ids), strict=True):
        assert torch.equal(z, again)
    assert any_model.training == mode


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_replaced_heads_are_the_sources_and_no_others(any_model, mode):
    any_model.train(mode)
    ids, other = torch.randint(0, 17, (2, 3, 6))
    own, source = head_outputs(any_model, ids), head_outputs(any_model, other)
    with replaced(any_model, (HeadPatch(1, 1, 2, 5),), source):
        got, logits = head_outputs(any_model, ids), logits_of(any_model, ids)
    want = own[1].clone()
    want[:, 2:5, 1] = source[1][:, 2:5, 1]
    assert torch.equal(got[0], own[0])
    assert torch.equal(got[1], want)
    assert not torch.equal(got[2], own[2])
    assert (logits - logits_of(any_model, ids)).abs().max() > 1e-2
    assert left_hooks(any_model) == 0


def test_contexts_nest_and_the_inner_one_wins_where_they_overlap(any_model):
    ids = torch.randint(0, 17, (2, 6))
    own = head_outputs(any_model, ids)
    ones, twos = ([torch.full_like(z, value) for z in own] for value in (1.0, 2.0))
    with replaced(any_model, (HeadPatch(0, 0), HeadPatch(0, 1, 0, 4)), ones):
        with replaced(any_model, (HeadPatch(0, 1, 2, 6),), twos):
            inner = head_outputs(any_model, ids)[0]
        outer = head_outputs(any_model, ids)[0]
    assert inner[:, :, 0].eq(1).all()
    assert inner[:, :2, 1].eq(1).all()
    assert inner[:, 2:, 1].eq(2).all()
    assert outer[:, :4, 1].eq(1).all()
    assert torch.equal(outer[:, 4:, 1], own[0][:, 4:, 1])
    assert torch.equal(head_outputs(any_model, ids)[0], own[0])


def test_a_patch_left_on_an_attention_module_stays_as_the_user_set_it(small_model):
    ids = torch.randint(0, 17, (2, 6))
    attn = small_model.blocks[0].attn
    attn.patch_head_index, attn.patch_head_output = 1, torch.ones(1, 6, 4)
    with replaced(small_model, (HeadPatch(0, 0),), [2 * torch.ones(1, 6, 2, 4)] * 3):
        z = head_outputs(small_model, ids)[0]
    assert z[:, :, 0].eq(2).all()
    assert z[:, :, 1].eq(1).all()
    assert attn.patch_head_index == 1


def test_what_does_not_fit_is_refused_in_words(any_model):
    ids = torch.randint(0, 17, (2, 6))
    source = head_outputs(any_model, ids)
    heads, head_dim = source[0].shape[2:]

    def run(intervention, source):
        with replaced(any_model, intervention, source):
            any_model(ids)

    with pytest.raises(PilotError, match="layer 3 does not exist"):
        run((HeadPatch(3, 0),), source)
    with pytest.raises(PilotError, match=f"head {heads} does not exist"):
        run((HeadPatch(0, heads),), source)
    with pytest.raises(PilotError, match="positions 2:7 are outside"):
        run((HeadPatch(0, 0, 2, 7),), source)
    with pytest.raises(PilotError, match="source has 2 layers, the model 3"):
        run((HeadPatch(0, 0),), source[:2])
    for wrong in (
        source[1][..., :-1],
        source[1][:, :, :-1],
        source[1][:, :5],
        source[1][0],
        source[1].repeat(2, 1, 1, 1),
    ):
        with pytest.raises(
            PilotError, match=rf"source of layer 1 has shape .* needs \(2 or 1, 6, {heads}, {head_dim}\)"
        ):
            run((HeadPatch(1, 0),), [source[0], wrong, source[2]])
    assert left_hooks(any_model) == 0


def test_a_model_whose_output_projection_is_not_known_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(PilotError, match="Sequential does not say how many layers and heads"):
        head_outputs(model, torch.zeros(1, 2))
    model.config = SimpleNamespace(n_layers=1, n_heads=1)
    with pytest.raises(PilotError, match=r"Sequential has no list of 1 layers .* attn\.out, self_attn\.o_proj"):
        head_outputs(model, torch.zeros(1, 2))


def test_a_forward_that_computes_some_positions_only_is_refused(small_model):
    ids = torch.randint(0, 17, (2, 6))
    source = head_outputs(small_model, ids)
    with (
        replaced(small_model, (HeadPatch(2, 0),), source),
        pytest.raises(PilotError, match="forwards that compute every position"),
    ):
        small_model(ids, read=torch.ones(2, 6, dtype=torch.bool))


def test_patching_a_run_with_its_own_activation_changes_nothing(small_model):
    ids = torch.randint(0, 17, (3, 8))
    own = head_outputs(small_model, ids)
    unpatched = small_model(ids)
    for intervention in single_heads(small_model.config):
        with replaced(small_model, intervention, own):
            assert torch.equal(small_model(ids), unpatched)


def test_a_patch_changes_the_run_from_its_position_on(small_model):
    ids, other = torch.randint(0, 17, (2, 3, 8))
    unpatched = small_model(ids)
    with replaced(small_model, (HeadPatch(1, 1, 4, 6),), head_outputs(small_model, other)):
        logits = small_model(ids)
    torch.testing.assert_close(logits[:, :4], unpatched[:, :4])
    assert (logits[:, 4:] - unpatched[:, 4:]).abs().amax((0, 2)).min() > 1e-3


def test_several_heads_with_their_own_positions(small_model):
    ids, other = torch.randint(0, 17, (2, 1, 8))
    source = head_outputs(small_model, other)
    own = head_outputs(small_model, ids)
    intervention = (HeadPatch(0, 0, 1, 3), HeadPatch(0, 1, 2, 8), HeadPatch(2, 1))
    with replaced(small_model, intervention, source):
        got = head_outputs(small_model, ids)
    want = own[0].clone()
    want[:, 1:3, 0], want[:, 2:, 1] = source[0][:, 1:3, 0], source[0][:, 2:, 1]
    assert torch.equal(got[0], want)
    assert torch.equal(got[2][:, :, 1], source[2][:, :, 1])
    assert not torch.equal(got[2][:, :, 0], own[2][:, :, 0])  # a consequence, not a patch


def test_all_heads_everywhere_leave_only_the_recipients_embedding_and_the_donors_attention(small_model):
    ids, other = torch.randint(0, 17, (2, 4, 8))
    source = head_outputs(small_model, other)
    everything = tuple(patch for (patch,) in single_heads(small_model.config))
    with replaced(small_model, everything, source):
        logits = small_model(ids)
    x = small_model.tokens(ids) + small_model.positions.weight[:8]
    for block, z in zip(small_model.blocks, source, strict=True):
        x = x + block.attn.out(z.flatten(2))
        x = x + block.mlp_out(torch.nn.functional.gelu(block.mlp_in(block.ln2(x))))
    torch.testing.assert_close(logits, small_model.unembed(small_model.ln_final(x)))


def test_patches_are_undone_after_an_error(small_model):
    ids = torch.randint(0, 17, (1, 8))
    unpatched = small_model(ids)

    def failing_run():
        with replaced(small_model, (HeadPatch(0, 0),), [torch.ones(1, 8, 2, 4)] * 3):
            assert not torch.equal(small_model(ids), unpatched)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_run()
    assert torch.equal(small_model(ids), unpatched)
    assert left_hooks(small_model) == 0


def test_attention_patterns_are_what_the_heads_mix_values_by(small_model):
    ids = torch.randint(0, 17, (3, 8))
    patterns = attention_patterns(small_model, ids)
    assert [tuple(pattern.shape) for pattern in patterns] == [(3, 2, 8, 8)] * 3
    x = small_model.tokens(ids) + small_model.positions.weight[:8]
    for block, pattern, z in zip(small_model.blocks, patterns, head_outputs(small_model, ids), strict=True):
        _, _, v = block.attn.queries_keys_values(block.ln1(x))
        torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), z)
        assert torch.equal(pattern, pattern.tril())
        torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 2, 8))
        x = block(x)
