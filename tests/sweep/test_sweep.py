import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.project import no_compiler

from pilot.interventions import HeadPatch, head_subsets, single_heads
from pilot.models.hooks import head_outputs, replaced
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep import SweepEngine, sweep

INTERVENTIONS = [(), (HeadPatch(0, 1),), (HeadPatch(1, 0, 2, 5), HeadPatch(2, 1))]


def sweep_in_parts(rows: int, model, recipient, donor, interventions, *, impl: str = "auto", **options) -> torch.Tensor:
    """`sweep`, so many rows at a time."""
    engine = SweepEngine(model, impl)
    engine.rows = rows
    return engine.run(recipient, donor, interventions, **options)


@pytest.fixture
def pairs():
    torch.manual_seed(1)
    recipient, donor = torch.randint(0, 17, (2, 7, 6))
    return recipient, donor, torch.tensor([[1, 5]] * 4 + [[0, 3]] * 3)


def test_every_intervention_meets_every_pair(small_model, pairs):
    recipient, donor, read = pairs
    got = sweep_in_parts(18, small_model, recipient, donor, INTERVENTIONS, read=read)
    assert got.shape == (3, 7, 2, 17)
    for i, intervention in enumerate(INTERVENTIONS):
        for pair in range(7):
            with replaced(small_model, intervention, head_outputs(small_model, donor[pair : pair + 1])):
                want = small_model(recipient[pair : pair + 1])[0, read[pair]]
            torch.testing.assert_close(got[i, pair], want)
    assert (got[1:] - got[:1]).abs().amax((1, 2, 3)).min() > 1e-2


def test_a_measure_sees_the_logits_and_which_pair_they_belong_to(small_model, pairs):
    recipient, donor, read = pairs
    logits = sweep(small_model, recipient, donor, INTERVENTIONS, read=read)
    got = sweep_in_parts(
        12,
        small_model,
        recipient,
        donor,
        INTERVENTIONS,
        read=read,
        measure=lambda rows, pair: torch.stack([rows[:, 0, 4], pair.float()], 1),
    )
    assert got.shape == (3, 7, 2)
    torch.testing.assert_close(got[:, :, 0], logits[:, :, 0, 4])
    assert got[:, :, 1].tolist() == [list(range(7))] * 3


def test_donors_may_be_head_outputs(small_model, pairs):
    recipient, donor, read = pairs
    from_tokens = sweep_in_parts(18, small_model, recipient, donor, INTERVENTIONS, read=read)
    outputs = head_outputs(small_model, donor)
    same = sweep_in_parts(18, small_model, recipient, outputs, INTERVENTIONS, read=read)
    torch.testing.assert_close(same, from_tokens)
    one = [z[:1] for z in outputs]
    same = sweep_in_parts(18, small_model, recipient, one, INTERVENTIONS, read=read)
    torch.testing.assert_close(same, sweep(small_model, recipient, donor[:1].expand(7, -1), INTERVENTIONS, read=read))


needs_compiler = pytest.mark.skipif(no_compiler() is not None, reason=str(no_compiler()))
TRIE_IMPLS = ["eager", pytest.param("fused", marks=needs_compiler)]


@st.composite
def sweeps(draw) -> dict:
    """Arguments of `sweep`: a random model, pairs that differ from anywhere on, any patches, any positions to read."""
    n_layers, n_heads, seq = draw(st.integers(1, 6)), draw(st.integers(1, 8)), draw(st.integers(1, 9))
    pairs, reads = draw(st.integers(1, 5)), draw(st.integers(1, seq))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    config = ModelConfig(n_layers, n_heads, d_model=n_heads * draw(st.integers(2, 5)), d_mlp=7, context=seq)
    model = PilotTransformer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    recipient, donor = torch.randint(0, config.vocab_size, (2, pairs, seq))
    for row, first in enumerate(draw(st.lists(st.integers(0, seq), min_size=pairs, max_size=pairs))):
        donor[row, :first] = recipient[row, :first]
    starts = st.integers(0, seq - 1)
    spans = starts.flatmap(lambda start: st.tuples(st.just(start), st.none() | st.integers(start + 1, seq)))
    patches = st.builds(
        lambda layer, head, span: HeadPatch(layer, head, *span),
        st.integers(0, n_layers - 1),
        st.integers(0, n_heads - 1),
        spans,
    )
    return {
        "model": model,
        "recipient": recipient,
        "donor": donor,
        "interventions": draw(st.lists(st.lists(patches, max_size=5).map(tuple), min_size=1, max_size=12)),
        "read": torch.stack([torch.randperm(seq)[:reads] for _ in range(pairs)]),
    }


@pytest.mark.parametrize("impl", TRIE_IMPLS)
@given(sweeps(), st.sampled_from([1, 10, 4096]))
@settings(max_examples=60)
def test_the_trie_gives_what_whole_runs_give(impl, arguments, rows):
    want = sweep(**arguments, impl="reference")
    torch.testing.assert_close(sweep_in_parts(rows, **arguments, impl=impl), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("impl", TRIE_IMPLS)
@given(sweeps(), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_the_order_of_interventions_and_pairs_does_not_matter(impl, arguments, random):
    straight = sweep(**arguments, impl=impl)
    order = random.sample(range(len(straight)), len(straight))
    pairs = random.sample(range(straight.shape[1]), straight.shape[1])
    arguments["interventions"] = [arguments["interventions"][i] for i in order]
    for name in ("recipient", "donor", "read"):
        arguments[name] = arguments[name][pairs]
    torch.testing.assert_close(sweep(**arguments, impl=impl), straight[order][:, pairs], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("impl", TRIE_IMPLS)
def test_all_subsets_agree_in_double_precision(small_model, pairs, impl):
    recipient, donor, read = pairs
    subsets = head_subsets(tuple(patch for (patch,) in single_heads(small_model.config)))
    model = small_model.double()
    want = sweep(model, recipient, donor, subsets, read=read, impl="reference")
    got = sweep_in_parts(50, model, recipient, donor, subsets, read=read, impl=impl)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    everything, nothing = got[-1], got[0]
    assert (everything - nothing).abs().amax((1, 2)).min() > 1e-2


@pytest.mark.parametrize("impl", ["reference", *TRIE_IMPLS])
def test_all_heads_together_make_the_donors_run_where_tokens_agree(small_model, pairs, impl):
    recipient, donor, _ = pairs
    donor[:, 5] = recipient[:, 5]
    read = torch.full((7, 1), 5)
    everything = tuple(patch for (patch,) in single_heads(small_model.config))
    got = sweep(small_model, recipient, donor, [everything], read=read, impl=impl)
    want = sweep(small_model, donor, donor, [()], read=read, impl=impl)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_a_damaged_donor_shows_only_where_it_is_patched_in(small_model, pairs):
    recipient, donor, read = pairs
    outputs = [z.clone() for z in head_outputs(small_model, donor)]
    outputs[1][:, :, 0] = torch.nan
    got = sweep(small_model, recipient, outputs, [(HeadPatch(1, 0),), (HeadPatch(1, 1),), ()], read=read)
    assert got[0].isnan().all()
    assert got[1:].isfinite().all()


def test_the_model_is_left_as_it_was(small_model, pairs):
    recipient, donor, read = pairs
    before = small_model(recipient)
    for impl in ("reference", "eager"):
        sweep(small_model, recipient, donor, single_heads(small_model), read=read, impl=impl)
        assert torch.equal(small_model(recipient), before)
        assert not any(module._forward_pre_hooks for module in small_model.modules())
