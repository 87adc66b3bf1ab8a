"""Sweeps of every model family equal hooks on W_O of the model's own forward, whatever is patched."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from support.project import no_compiler
from support.tiny_models import CONTEXT, MODELS, VOCAB, tiny_model

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, head_counts, head_subsets, single_heads, single_positions
from pilot.models.hooks import head_outputs
from pilot.sweep import SweepEngine

IMPLS = ["eager", pytest.param("fused", marks=pytest.mark.skipif(bool(no_compiler()), reason=str(no_compiler())))]
SEQ, PAIRS = 9, 5


@pytest.fixture(scope="module")
def engines():
    """Engines by family and implementation, made once."""
    made: dict[tuple[str, str], SweepEngine] = {}

    def engine(name: str, impl: str) -> SweepEngine:
        if (name, impl) not in made:
            made[name, impl] = SweepEngine(tiny_model(name), impl)
        return made[name, impl]

    return engine


def pairs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Recipients and donors that first differ at position 0, 3, 6, at the last one, and nowhere."""
    generator = torch.Generator().manual_seed(seed)
    recipient, donor = (torch.randint(VOCAB, (PAIRS, SEQ), generator=generator) for _ in range(2))
    for row, first in enumerate((0, 3, 6, SEQ - 1, SEQ)):
        donor[row, :first] = recipient[row, :first]
    return recipient, donor


def interventions(model, family: str) -> list[tuple[HeadPatch, ...]]:
    n_layers, n_heads = head_counts(model)
    draw = random.Random(0)
    heads = [head for (head,) in single_heads(model)]
    if family == "heads":
        return single_heads(model)
    if family == "positions":
        return single_positions(model, SEQ)[::n_heads]
    if family == "sets":
        return list(head_subsets(sorted(draw.sample(heads, 5))))
    some = [tuple(draw.sample(heads, draw.randint(2, len(heads)))) for _ in range(6)]
    if family == "ranges":
        spans = [(a, b) for a, b in itertools.combinations(range(SEQ + 1), 2)]
        return [
            tuple(p._replace(start=a, stop=b) for p, (a, b) in zip(set_, draw.choices(spans, k=99), strict=False))
            for set_ in some
        ]
    all_heads = tuple(heads)
    overlapping = (HeadPatch(0, 0, 2, 6), HeadPatch(0, 0, 4, 8), HeadPatch(n_layers - 1, 0, 1, None))
    return [(), all_heads, all_heads, all_heads[::-1], (), overlapping, overlapping[::-1], *some, *some]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("family", ["heads", "positions", "sets", "ranges", "duplicates"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_sweep_is_what_hooks_give(name, family, impl, engines):
    engine = engines(name, impl)
    recipient, donor = pairs(seed=len(family))
    patches = interventions(engine.model, family)
    reference = SweepEngine(engine.model, "reference")
    for read in (torch.full((PAIRS, 1), SEQ - 1), torch.tensor([[4, 8], [5, 7], [8, 8], [3, 8], [2, 6]])):
        expected = reference.run(recipient, donor, patches, read=read)
        found = engine.run(recipient, donor, patches, read=read)
        assert (found - expected).abs().max() < 1e-4 * expected.std()
    unpatched = reference.run(recipient, donor, [()], read=read)
    assert (expected - unpatched).abs().max() > 1e-2 * expected.std(), "patches without effect would prove nothing"


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_donors_may_be_given_as_head_outputs(name, engines):
    engine = engines(name, "eager")
    recipient, donor = pairs(seed=1)
    patches, read = single_heads(engine.model), torch.full((PAIRS, 1), SEQ - 2)
    outputs = head_outputs(engine.model, donor)
    expected = engine.run(recipient, donor, patches, read=read)
    spread = expected.std()
    assert (engine.run(recipient, outputs, patches, read=read) - expected).abs().max() < 1e-4 * spread
    zeros = [torch.zeros_like(z[:1]) for z in outputs]
    expected = SweepEngine(engine.model, "reference").run(recipient, zeros, patches, read=read)
    assert (engine.run(recipient, zeros, patches, read=read) - expected).abs().max() < 1e-4 * spread


@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize("name", ["pilot", "gpt2", "llama"])
def test_logits_of_some_tokens_are_those_of_all(name, impl, engines):
    engine = engines(name, impl)
    recipient, donor = pairs(seed=2)
    patches, read = single_heads(engine.model), torch.tensor([[4, 8]] * PAIRS)
    tokens = torch.randint(VOCAB, (PAIRS, 3), generator=torch.Generator().manual_seed(0))
    whole = engine.run(recipient, donor, patches, read=read)
    some = engine.run(recipient, donor, patches, read=read, tokens=tokens)
    torch.testing.assert_close(
        some, whole.gather(3, tokens[None, :, None].expand(len(patches), -1, 2, -1)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    "tokens",
    [torch.zeros(2, 1).long(), torch.zeros(PAIRS, 0).long(), torch.zeros(PAIRS, 1), torch.full((PAIRS, 1), VOCAB)],
)
def test_tokens_that_do_not_fit_are_refused(tokens, engines):
    recipient, donor = pairs(seed=2)
    with pytest.raises(PilotError, match="tokens"):
        engines("llama", "eager").run(recipient, donor, [()], read=torch.zeros(PAIRS, 1).long(), tokens=tokens)


def test_a_family_that_no_lowering_knows_runs_as_reference_and_says_so():
    import transformers

    config = transformers.OlmoConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
    )
    model = transformers.OlmoForCausalLM(config).eval()
    with pytest.warns(UserWarning, match="run the whole model .*: the sweep engine cannot lower a OlmoForCausalLM"):
        engine = SweepEngine(model)
    assert engine.impl == "reference"
    recipient, donor = pairs(seed=3)
    assert engine.run(recipient, donor, single_heads(model), read=torch.full((PAIRS, 1), 8)).isfinite().all()
    with pytest.raises(PilotError, match=r"cannot lower a OlmoForCausalLM: use impl='reference'"):
        SweepEngine(model, "eager")


def test_a_model_whose_forward_was_altered_is_refused():
    model = tiny_model("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output * 1.1)
    with pytest.raises(PilotError, match="does not reproduce the logits of this LlamaForCausalLM"):
        SweepEngine(model, "eager")


def test_other_precisions_run_as_reference():
    with pytest.warns(UserWarning, match="its weights are bfloat16, not float32 or float64"):
        assert SweepEngine(tiny_model("llama").bfloat16()).impl == "reference"


def test_a_model_that_drops_out_is_refused():
    model = tiny_model("gpt2").train()
    for impl in ("auto", "reference"):
        with pytest.raises(PilotError, match=r"in training mode and drops out at random: call model.eval\(\)"):
            SweepEngine(model, impl)


def test_sequences_beyond_the_window_run_as_reference_or_are_refused():
    recipient, donor = pairs(seed=4)
    model = tiny_model("gemma3-window")
    patches, read = single_heads(model), torch.full((PAIRS, 1), 8)
    expected = SweepEngine(model, "reference").run(recipient, donor, patches, read=read)
    with pytest.warns(UserWarning, match="sequences of 9 positions reach beyond the model's attention window of 6"):
        found = SweepEngine(model).run(recipient, donor, patches, read=read)
    assert found.equal(expected)
    with pytest.raises(PilotError, match="attention window of 6: use impl='reference'"):
        SweepEngine(model, "eager").run(recipient, donor, patches, read=read)
    short = torch.full((PAIRS, 1), 5)
    expected = SweepEngine(model, "reference").run(recipient[:, :6], donor[:, :6], patches, read=short)
    assert (
        SweepEngine(model, "eager").run(recipient[:, :6], donor[:, :6], patches, read=short) - expected
    ).abs().max() < 1e-4
