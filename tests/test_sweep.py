import pytest
import torch
from project import no_compiler

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, single_heads
from pilot.patching import head_outputs, patched
from pilot.sweep import sweep

INTERVENTIONS = [(), (HeadPatch(0, 1),), (HeadPatch(1, 0, 2, 5), HeadPatch(2, 1))]


@pytest.fixture
def pairs():
    torch.manual_seed(1)
    recipient, donor = torch.randint(0, 17, (2, 7, 6))
    return recipient, donor, torch.tensor([[1, 5]] * 4 + [[0, 3]] * 3)


def test_every_intervention_meets_every_pair(small_model, pairs):
    recipient, donor, read = pairs
    got = sweep(small_model, recipient, donor, INTERVENTIONS, read=read, batch_size=3)
    assert got.shape == (3, 7, 2, 17)
    for i, intervention in enumerate(INTERVENTIONS):
        for pair in range(7):
            with patched(small_model, intervention, head_outputs(small_model, donor[pair : pair + 1])):
                want = small_model(recipient[pair : pair + 1])[0, read[pair]]
            torch.testing.assert_close(got[i, pair], want)
    assert (got[1:] - got[:1]).abs().amax((1, 2, 3)).min() > 1e-2


def test_a_measure_sees_the_logits_and_which_pair_they_belong_to(small_model, pairs):
    recipient, donor, read = pairs
    logits = sweep(small_model, recipient, donor, INTERVENTIONS, read=read)
    got = sweep(
        small_model,
        recipient,
        donor,
        INTERVENTIONS,
        read=read,
        measure=lambda rows, pair: torch.stack([rows[:, 0, 4], pair.float()], 1),
        batch_size=2,
    )
    assert got.shape == (3, 7, 2)
    torch.testing.assert_close(got[:, :, 0], logits[:, :, 0, 4])
    assert got[:, :, 1].tolist() == [list(range(7))] * 3


def test_donors_may_be_head_outputs(small_model, pairs):
    recipient, donor, read = pairs
    from_tokens = sweep(small_model, recipient, donor, INTERVENTIONS, read=read, batch_size=3)
    outputs = head_outputs(small_model, donor)
    torch.testing.assert_close(
        sweep(small_model, recipient, outputs, INTERVENTIONS, read=read, batch_size=3), from_tokens
    )
    one = [z[:1] for z in outputs]
    same = sweep(small_model, recipient, one, INTERVENTIONS, read=read, batch_size=3)
    torch.testing.assert_close(same, sweep(small_model, recipient, donor[:1].expand(7, -1), INTERVENTIONS, read=read))


@pytest.mark.skipif(no_compiler() is not None, reason=str(no_compiler()))
def test_the_fused_operator_gives_the_same(small_model, pairs):
    recipient, donor, read = pairs
    eager = sweep(small_model, recipient, donor, INTERVENTIONS, read=read, impl="eager")
    fused = sweep(small_model, recipient, donor, INTERVENTIONS, read=read, impl="fused")
    torch.testing.assert_close(fused, eager, atol=1e-5, rtol=0)


def test_the_model_is_left_as_it_was(small_model, pairs):
    recipient, donor, read = pairs
    before = small_model(recipient)
    sweep(small_model, recipient, donor, single_heads(small_model.config), read=read)
    assert torch.equal(small_model(recipient), before)
    assert all(block.attn.record_head_output for block in small_model.blocks)


def test_what_does_not_fit_is_refused(small_model, pairs):
    recipient, donor, read = pairs
    with pytest.raises(PilotError, match="layer 3 does not exist"):
        sweep(small_model, recipient, donor, [(HeadPatch(3, 0),)], read=read)
    with pytest.raises(PilotError, match=r"recipient \(7, 6\), donor \(6, 6\) and read \(7, 2\) do not fit"):
        sweep(small_model, recipient, donor[:6], INTERVENTIONS, read=read)
    with pytest.raises(PilotError, match="read holds positions outside the sequence of 6"):
        sweep(small_model, recipient, donor, INTERVENTIONS, read=read + 1)
    with pytest.raises(PilotError, match="at least one intervention"):
        sweep(small_model, recipient, donor, [], read=read)
