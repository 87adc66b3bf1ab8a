import pytest
import torch

from pilot.interventions import HeadPatch, single_heads
from pilot.models.hooks import attention_patterns, attention_settings, head_outputs, patched


def test_patching_a_run_with_its_own_activation_changes_nothing(small_model):
    ids = torch.randint(0, 17, (3, 8))
    own = head_outputs(small_model, ids)
    unpatched = small_model(ids)
    for intervention in single_heads(small_model.config):
        with patched(small_model, intervention, own):
            assert torch.equal(small_model(ids), unpatched)


def test_a_patch_changes_the_run_from_its_position_on(small_model):
    ids, other = torch.randint(0, 17, (2, 3, 8))
    unpatched = small_model(ids)
    with patched(small_model, (HeadPatch(1, 1, 4, 6),), head_outputs(small_model, other)):
        logits = small_model(ids)
    torch.testing.assert_close(logits[:, :4], unpatched[:, :4])
    assert (logits[:, 4:] - unpatched[:, 4:]).abs().amax((0, 2)).min() > 1e-3


def test_several_heads_with_their_own_positions(small_model):
    ids, other = torch.randint(0, 17, (2, 1, 8))
    source = head_outputs(small_model, other)
    own = head_outputs(small_model, ids)
    intervention = (HeadPatch(0, 0, 1, 3), HeadPatch(0, 1, 2, 8), HeadPatch(2, 1))
    with patched(small_model, intervention, source):
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
    with patched(small_model, everything, source):
        logits = small_model(ids)
    x = small_model.tokens(ids) + small_model.positions.weight[:8]
    for block, z in zip(small_model.blocks, source, strict=True):
        x = x + block.attn.out(z.flatten(2))
        x = x + block.mlp_out(torch.nn.functional.gelu(block.mlp_in(block.ln2(x))))
    torch.testing.assert_close(logits, small_model.unembed(small_model.ln_final(x)))


def test_patches_and_recording_are_undone_after_an_error(small_model):
    ids = torch.randint(0, 17, (1, 8))
    unpatched = small_model(ids)

    def failing_run():
        with (
            attention_settings(small_model, record_head_output=False),
            patched(small_model, (HeadPatch(0, 0),), [torch.ones(1, 8, 2, 4)]),
        ):
            assert not torch.equal(small_model(ids), unpatched)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_run()
    assert torch.equal(small_model(ids), unpatched)
    assert all(block.attn.record_head_output for block in small_model.blocks)


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
