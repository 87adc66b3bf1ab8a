import math

import pytest
import torch

from pilot.arithmetic.grammar import Grammar
from pilot.errors import PilotError
from pilot.models.attention import causal_attention
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.ops.patched_attention import eager_patched_attention


def test_attention_by_hand():
    # One head of one dimension: the scores of position 1 are q k = ln 3 and 0, so the weights are 3/4 and 1/4.
    q = torch.tensor([5.0, 1.0]).view(1, 2, 1, 1)
    k = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1)
    v = torch.tensor([8.0, 4.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(causal_attention(q, k, v).flatten(), torch.tensor([8.0, 7.0]))


def test_the_default_model_has_the_promised_size():
    context = Grammar(max_operand=9, operators="+-*", min_operands=2, max_operands=4).longest_line() + 1
    model = PilotTransformer(ModelConfig(context=context))
    assert 0.66e6 <= model.n_parameters <= 0.67e6
    assert model.config.head_dim == 32
    assert len(model.blocks) == 4


def test_a_position_does_not_see_those_behind_it(small_model):
    ids = torch.randint(0, 17, (2, 9))
    changed = ids.clone()
    changed[:, 5:] = 3
    torch.testing.assert_close(small_model(changed)[:, :5], small_model(ids)[:, :5])


def test_logits_at_some_positions_are_those_of_the_whole_run(small_model):
    ids, read = torch.randint(0, 17, (4, 9)), torch.rand(4, 9) < 0.3
    torch.testing.assert_close(small_model(ids, read=read), small_model(ids)[read])


def test_unpatched_paper_model(paper_model):
    # Tokens 0 1: the mean of (1, -1) and (-1, 1) is 0, so position 1 stays at its embedding (-1, 1).
    logits = paper_model(torch.tensor([[0, 1]]))
    torch.testing.assert_close(logits[0], torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        paper_model.blocks[0].attn.last_head_output,
        torch.tensor([[[[1.0], [-1.0]], [[0.0], [0.0]]]]),
        atol=1e-4,
        rtol=0,
    )


def test_patched_paper_model(paper_model):
    # Head 0 at position 1 from a run of tokens 0 0: its z is 1, not 0. The residual is (-1, 1) + (3, 0) = (2, 1),
    # which the final LayerNorm makes (1, -1): the answer at position 1 flips, position 0 is as before.
    attn = paper_model.blocks[0].attn
    paper_model(torch.tensor([[0, 0]]))
    saved = attn.last_head_output[:, :, 0]
    attn.patch_head_index, attn.patch_head_output = 0, saved
    logits = paper_model(torch.tensor([[0, 1]]))
    torch.testing.assert_close(logits[0], torch.tensor([[1.0, -1.0], [1.0, -1.0]]), atol=1e-4, rtol=0)
    # Only position 0 patched: its z is 1 in both runs, so nothing changes.
    attn.patch_positions = slice(0, 1)
    logits = paper_model(torch.tensor([[0, 1]]))
    torch.testing.assert_close(logits[0], torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), atol=1e-4, rtol=0)


def test_last_head_output_has_the_promised_shape_and_is_what_the_projection_reads(small_model):
    attn = small_model.blocks[1].attn
    read = {}
    attn.out.register_forward_pre_hook(lambda _, args: read.update(x=args[0]))
    small_model(torch.randint(0, 17, (5, 7)))
    assert attn.last_head_output.shape == (5, 7, 2, 4)
    torch.testing.assert_close(attn.last_head_output.flatten(2), read["x"])


def test_nothing_is_kept_in_training_not_even_what_was_there_before(small_model):
    ids = torch.randint(0, 17, (1, 3))
    small_model(ids)
    small_model.train()
    small_model(ids)
    assert small_model.blocks[0].attn.last_head_output is None


def test_a_patched_attention_that_is_handed_over_computes_the_same(small_model):
    ids, other = torch.randint(0, 17, (2, 4, 6))
    small_model(other)
    source = small_model.blocks[1].attn.last_head_output
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return eager_patched_attention(*arguments)

    for given in (None, source[:, :, 0], source[:1, :, 0]):
        attn = small_model.blocks[1].attn
        attn.patch_head_index, attn.patch_head_output = None if given is None else 0, given
        attn.patched_attention = None
        want = small_model(ids)
        attn.patched_attention = counted
        torch.testing.assert_close(small_model(ids), want)
    assert len(calls) == 3


@pytest.mark.parametrize("heads", [1, (0, 1), (1,)])
@pytest.mark.parametrize("rows", [1, 4])
def test_patches_of_every_promised_shape(small_model, heads, rows):
    ids, attn = torch.randint(0, 17, (4, 6)), small_model.blocks[1].attn
    small_model(ids)
    own = attn.last_head_output
    patched_heads = (heads,) if isinstance(heads, int) else heads
    attn.patch_head_index = heads
    attn.patch_head_output = torch.randn(rows, 6, len(patched_heads), 4)
    if isinstance(heads, int):
        attn.patch_head_output = attn.patch_head_output[:, :, 0]
    attn.patch_positions = slice(2, 5)
    small_model(ids)
    source = attn.patch_head_output.reshape(rows, 6, len(patched_heads), 4).expand(4, -1, -1, -1)
    for head in range(2):
        for position in range(6):
            patched = head in patched_heads and 2 <= position < 5
            want = source[:, position, patched_heads.index(head)] if patched else own[:, position, head]
            assert torch.equal(attn.last_head_output[:, position, head], want)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (2, (1, 3, 4), "head 2 does not exist: the model has heads 0 to 1"),
        (0, (2, 3, 4), r"has shape \(2, 3, 4\); .* need \(1 or 1, 3, 1, 4\)"),
        ((0, 1), (1, 3, 1, 4), r"need \(1 or 1, 3, 2, 4\)"),
        (0, None, "patch_head_output is not"),
    ],
)
def test_patches_that_do_not_fit_are_refused(small_model, index, shape, message):
    attn = small_model.blocks[0].attn
    attn.patch_head_index, attn.patch_head_output = index, None if shape is None else torch.zeros(shape)
    with pytest.raises(PilotError, match=message):
        small_model(torch.zeros(1, 3, dtype=torch.int64))


def test_each_patched_head_needs_its_positions(small_model):
    attn = small_model.blocks[0].attn
    attn.patch_head_index, attn.patch_head_output = (0, 1), torch.zeros(1, 3, 2, 4)
    attn.patch_positions = (slice(0, 2),)
    with pytest.raises(PilotError, match="patch_positions has 1 slices for 2 heads: give one for each"):
        small_model(torch.zeros(1, 3, dtype=torch.int64))


def test_a_sequence_longer_than_the_context_is_refused(small_model):
    with pytest.raises(PilotError, match="11 tokens does not fit the model's context of 10"):
        small_model(torch.zeros(1, 11, dtype=torch.int64))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_heads": 3}, "multiple"),
        ({"d_mlp": 0}, "d_mlp"),
        ({"context": 2.5}, "context"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(PilotError, match=message):
        ModelConfig(**sizes)
