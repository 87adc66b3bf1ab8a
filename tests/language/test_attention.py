"""Heads replaced by `attn_implementation="pilot"`, against hooks on W_O, for many architectures of transformers."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AttentionInterface, AutoModelForCausalLM

from pilot.errors import PilotError
from pilot.interventions import HeadPatch
from pilot.language import head_patches, register
from pilot.language.attention import NAME
from pilot.models.hooks import head_outputs, replaced

VOCAB, SEQ = 31, 12
SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES = {
    "GPT2": {"n_embd": 24, "n_layer": 2, "n_head": 3},
    "GPTNeoX": SMALL,
    "OPT": {
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "word_embed_proj_dim": 24,
    },
    "Llama": GROUPED,
    "Mistral": GROUPED | {"sliding_window": None},
    "Qwen2": SMALL | {"num_key_value_heads": 2},
    "Qwen3": GROUPED,
    "Gemma": GROUPED | {"num_key_value_heads": 1},  # multi-query
    "Gemma2": GROUPED | {"sliding_window": 5, "attn_logit_softcapping": 2.0},
    "Gemma3Text": GROUPED | {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "Phi3": SMALL | {"num_key_value_heads": 2},
    "Olmo2": SMALL | {"num_key_value_heads": 2},
    "Starcoder2": SMALL | {"num_key_value_heads": 2, "sliding_window": 5},
    "GptOss": GROUPED
    | {
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
}
PATCHES = (HeadPatch(0, 1, 2, 7), HeadPatch(1, 0), HeadPatch(1, 2, 4))


def make(name, attention="eager"):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCAB,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **ARCHITECTURES[name],
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=0.3 if "norm" in name or "ln_" in name else 0.0, std=0.3)
    return model


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return make(request.param)


@pytest.fixture
def llama():
    return make("Llama", "sdpa")


def ids(rows=3, seed=1):
    return torch.randint(3, VOCAB, (rows, SEQ), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def with_hooks(model, patches, donor, **inputs):
    source = head_outputs(model, donor)
    with replaced(model, patches, source):
        return model(**inputs).logits


@torch.no_grad()
def test_unpatched_it_is_the_models_own_attention(model):
    own = model(ids()).logits
    register()
    model.set_attn_implementation(NAME)
    torch.testing.assert_close(model(ids()).logits, own, atol=2e-5 * float(own.std()) + 1e-6, rtol=1e-4)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@torch.no_grad()
def test_patches_are_those_of_hooks(model, impl):
    own = model(ids()).logits
    expected = with_hooks(model, PATCHES, ids(seed=2), input_ids=ids())
    with head_patches(model, PATCHES, ids(seed=2), impl=impl):
        patched = model(ids()).logits
    assert (expected - own).abs().max() > 1e-2 * own.std(), "a patch without effect would prove nothing"
    assert (patched - expected).abs().max() < 1e-4 * own.std()
    assert model.config._attn_implementation == "eager"
    assert model(ids()).logits.equal(own), "nothing stays behind"


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ("Gemma2", "GptOss")])
@torch.no_grad()
def test_eager_patches_are_those_of_hooks_bit_for_bit(name):
    """Gemma 2 and GPT-OSS, which have softcaps and sinks, are computed by PyTorch's sdpa in no implementation."""
    model = make(name, "sdpa")
    expected = with_hooks(model, PATCHES, ids(seed=2), input_ids=ids())
    with head_patches(model, PATCHES, ids(seed=2), impl="eager"):
        assert model(ids()).logits.equal(expected)


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "Llama", "Gemma2", "Gemma3Text", "GptOss"])
@torch.no_grad()
def test_a_padded_batch_is_patched_row_by_row(name):
    """Rows padded on the left, patched together, are what each gives alone (nnsight issue 672)."""
    model, prompts, donors = make(name), ids(), ids(seed=2)
    pads = [0, 3, 5]
    mask = torch.ones_like(prompts)
    for row, pad in enumerate(pads):
        mask[row, :pad] = prompts[row, :pad] = donors[row, :pad] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"attention_mask": mask, "position_ids": positions}
    z = []
    for row, pad in enumerate(pads):
        alone = head_outputs(model, donors[row : row + 1, pad:])
        z.append([torch.nn.functional.pad(layer, (0, 0, 0, 0, pad, 0)) for layer in alone])
    donor = [torch.cat(rows) for rows in zip(*z, strict=True)]
    patches = (HeadPatch(0, 1, 6), HeadPatch(1, 2, 8, 11))
    with head_patches(model, patches, donor):
        together = model(prompts, **inputs).logits
    for row, pad in enumerate(pads):
        own = [layer[row : row + 1, pad:] for layer in donor]
        moved = tuple(p._replace(start=p.start - pad, stop=p.stop and p.stop - pad) for p in patches)
        with head_patches(model, moved, own):
            alone = model(prompts[row : row + 1, pad:]).logits
        torch.testing.assert_close(together[row, pad:], alone[0], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_it_stays_causal(llama):
    """An attention without a mask function of its name would see later positions (transformers issue 46132)."""
    register()
    llama.set_attn_implementation(NAME)
    before, changed = ids(), ids()
    changed[:, 8:] = ids(seed=3)[:, 8:]
    torch.testing.assert_close(llama(before).logits[:, :8], llama(changed).logits[:, :8])
    padded = torch.ones_like(before)
    padded[0, :2] = 0  # with a mask, too
    first, second = (llama(x, attention_mask=padded).logits[:, 2:8] for x in (before, changed))
    torch.testing.assert_close(first, second)


@torch.no_grad()
def test_blocks_nest_and_the_inner_one_wins(llama):
    outer, inner = head_outputs(llama, ids(seed=2)), head_outputs(llama, ids(seed=3))
    outer_patch, inner_patch = (HeadPatch(0, 1), HeadPatch(0, 2)), (HeadPatch(0, 1, 3, 6),)
    with replaced(llama, outer_patch, outer), replaced(llama, inner_patch, inner):
        expected = llama(ids()).logits
    with head_patches(llama, outer_patch, outer), head_patches(llama, inner_patch, inner):
        torch.testing.assert_close(llama(ids()).logits, expected, atol=1e-4, rtol=1e-4)
    assert llama.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_one_donor_serves_all_rows_and_a_patch_covers_several_forwards(llama):
    donor = ids(rows=1, seed=2)
    expected = with_hooks(llama, PATCHES, donor.expand(3, -1), input_ids=ids())
    with head_patches(llama, PATCHES, donor):
        for _ in range(2):
            torch.testing.assert_close(llama(ids()).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_everything_is_put_back_after_an_error(llama):
    own = llama(ids()).logits
    with pytest.raises(ZeroDivisionError), head_patches(llama, PATCHES, ids(seed=2)):
        raise ZeroDivisionError
    assert llama.config._attn_implementation == "sdpa"
    assert llama(ids()).logits.equal(own)


@torch.no_grad()
def test_a_patch_that_is_not_applied_is_an_error(llama, monkeypatch):
    """nnsight issue 502: an architecture that does not ask the interface would run unpatched without a word."""
    own = type(llama.model.layers[1].self_attn).forward

    def its_own_attention(self, hidden_states, **inputs):
        self.config._attn_implementation = "sdpa"
        try:
            return own(self, hidden_states, **inputs)
        finally:
            self.config._attn_implementation = NAME

    monkeypatch.setattr(
        llama.model.layers[1].self_attn, "forward", its_own_attention.__get__(llama.model.layers[1].self_attn)
    )
    with (
        pytest.raises(
            PilotError, match="layer 1 was patched in 0 of 1 forwards: LlamaForCausalLM does not take its attention"
        ),
        head_patches(llama, PATCHES, ids(seed=2)),
    ):
        llama(ids())


def test_bad_patches_and_donors_are_refused_in_words(llama):
    z = head_outputs(llama, ids(seed=2))
    for patches, donor, message in [
        ((HeadPatch(5, 0),), z, "layer 5"),
        ((HeadPatch(0, 9),), z, "head 9"),
        ((HeadPatch(0, 0, 4, 40),), z, "positions 4:40"),
        (PATCHES, z[:1], "the donor has 1 layers, the model 2"),
    ]:
        with pytest.raises(PilotError, match=message), head_patches(llama, patches, donor):
            pass
    for donor in ([layer[:2] for layer in z], [layer[:, :-1] for layer in z]):
        with pytest.raises(PilotError, match="layer 0 of the donor is"), head_patches(llama, (HeadPatch(0, 0),), donor):
            llama(ids())
    llama.train()
    llama.config.attention_dropout = 0.1
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(PilotError, match=r"training mode.*model.eval\(\)"), head_patches(llama, PATCHES, z):
        llama(ids())


@torch.no_grad()
def test_decoding_with_a_cache_is_patched_where_its_positions_are(llama):
    """A step of one token has one position: a donor of the whole prompt does not fit, and that is said."""
    with head_patches(llama, (HeadPatch(0, 1),), ids(seed=2)):
        cached = llama(ids(), use_cache=True).past_key_values
        with pytest.raises(PilotError, match="layer 0 of the donor is"):
            llama(ids()[:, :1], past_key_values=cached)


def test_register_twice_changes_nothing():
    register()
    found = AttentionInterface()[NAME]
    register()
    assert AttentionInterface()[NAME] is found


@torch.no_grad()
def test_blocks_of_the_same_heads_nest(llama):
    patch = (HeadPatch(0, 1),)
    outer, inner = head_outputs(llama, ids(seed=2)), head_outputs(llama, ids(seed=3))
    with replaced(llama, patch, inner):
        expected = llama(ids()).logits
    own = llama(ids()).logits
    with head_patches(llama, patch, outer), head_patches(llama, patch, inner):
        torch.testing.assert_close(llama(ids()).logits, expected, atol=1e-4, rtol=1e-4)
    assert llama(ids()).logits.equal(own)
