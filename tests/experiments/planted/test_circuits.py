import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.errors import PilotError
from pilot.experiments.planted.circuits import (
    CLEAN_ANSWER,
    CORRUPT_ANSWER,
    KINDS,
    READ,
    SEQ_LEN,
    Circuit,
    draw_pairs,
    plant,
    random_circuit,
)
from pilot.experiments.planted.scores import recovery
from pilot.interventions import HeadPatch, at_positions, head_subsets
from pilot.models.hooks import head_outputs


def planted(kind: str, n_layers: int, n_heads: int, seed: int):
    rng = np.random.default_rng(seed)
    circuit = random_circuit(kind, n_layers, n_heads, rng)
    return circuit, plant(circuit, rng), draw_pairs(circuit, 16, rng)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([*KINDS, "none"]), st.integers(2, 4), st.integers(2, 4), st.integers(0, 2**32))
def test_the_answer_is_the_bit_at_the_signal_position(kind, n_layers, n_heads, seed):
    circuit, model, pairs = planted(kind, n_layers, n_heads, seed)
    assert not model.training
    for tokens, bit, answer in ((pairs.clean, 1, CLEAN_ANSWER), (pairs.corrupt, 0, CORRUPT_ANSWER)):
        assert (tokens[:, circuit.signal] % 2 == bit).all()
        assert (model(tokens)[:, READ].argmax(-1) == answer).all()


# Which sets of the planted heads, in the order (), (first), (second), (both), bring the donor's answer.
@pytest.mark.parametrize(
    ("kind", "denoised", "noised"),
    [
        ("single", [0, 1], [0, 1]),
        ("and", [0, 0, 0, 1], [0, 1, 1, 1]),
        ("or", [0, 1, 1, 1], [0, 0, 0, 1]),
        ("position", [0, 1, 1, 1], [0, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("size", [(2, 2), (2, 4), (4, 3), (4, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_planted_heads_work_together_as_their_kind_says(kind, denoised, noised, size, seed):
    circuit, model, pairs = planted(kind, *size, seed)
    want = np.array([denoised, noised], dtype=float)[..., None]
    for heads in (circuit.heads, at_positions(circuit.heads, 0, None)):
        np.testing.assert_allclose(
            recovery(model, pairs, head_subsets(heads)), np.broadcast_to(want, (2, len(denoised), 16)), atol=0.1
        )


def test_two_heads_of_one_layer_and_of_different_layers_are_planted():
    drawn = [random_circuit("or", 3, 2, np.random.default_rng(seed)).heads for seed in range(50)]
    assert {first.layer - second.layer for first, second in drawn} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_distractors_write_much_and_change_little(kind, seed):
    circuit, model, pairs = planted(kind, 4, 4, seed)
    clean, corrupt = head_outputs(model, pairs.clean), head_outputs(model, pairs.corrupt)

    def written(patch):  # how far the two runs' outputs are apart in the residual stream where the answer is read
        weight = model.blocks[patch.layer].attn.out.weight.view(24, 4, 6)[:, patch.head]
        difference = clean[patch.layer] - corrupt[patch.layer]
        return (difference[:, READ, patch.head] @ weight.T).norm(dim=1).mean().item()

    assert len(circuit.distractors) in (7, 8)
    # A bit is +1 or -1 in two coordinates: 8**0.5 apart.
    assert np.mean([written(patch) for patch in circuit.distractors]) > 3 * 8**0.5
    assert np.abs(recovery(model, pairs, [circuit.distractors])).max() < 0.05
    # Without the leak there is only the scale of LayerNorm to carry what they write.
    model.unembed.weight.data[:, 18:] = 0
    assert np.abs(recovery(model, pairs, [circuit.distractors])).max() < 0.003


@pytest.mark.parametrize("seed", range(5))
def test_a_head_that_matters_at_one_position_can_be_patched_at_all_others(seed):
    circuit, model, pairs = planted("position", 3, 3, seed)
    between, last = circuit.heads
    assert circuit.signal < between.start < READ == last.start
    clean, corrupt = (head_outputs(model, tokens)[between.layer] for tokens in (pairs.clean, pairs.corrupt))
    # Its first dimension is the bit wherever the signal is in sight, and still only one position matters.
    assert ((clean - corrupt)[:, circuit.signal :, between.head, 0] - 2).abs().max() < 0.01
    for head in circuit.heads:
        before = at_positions((head,), 0, head.start)
        after = at_positions((head,), head.stop, None) if head.stop < SEQ_LEN else ()
        assert np.abs(recovery(model, pairs, [before + after])).max() < 0.1


def test_pairs_differ_in_everything_but_not_in_the_bits_meaning():
    circuit, _, pairs = planted("and", 2, 2, seed=0)
    assert pairs.clean.shape == pairs.corrupt.shape == (16, SEQ_LEN)
    assert pairs.read.tolist() == [[READ]] * 16
    other = [t for t in range(SEQ_LEN) if t != circuit.signal]
    assert 0.8 < (pairs.clean != pairs.corrupt)[:, other].float().mean() < 1  # 15/16 expected


def test_the_same_seed_plants_the_same_model():
    one, other = (planted("and", 2, 2, seed=4)[1].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


AT_END = HeadPatch(1, 0, READ, READ + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "xor"}, "there is no planted circuit 'xor', only single, and, or, position, none"),
        ({"heads": (HeadPatch(2, 0, READ, READ + 1),)}, "layer 2 does not exist"),
        ({"distractors": (HeadPatch(0, 5),)}, "head 5 does not exist"),
        ({"distractors": (HeadPatch(1, 0),)}, "a planted 'single' circuit names a head twice"),
        ({"kind": "and"}, "a planted 'and' circuit has 2 heads, not 1"),
        ({"n_heads": 5}, r"model.d_model \(24\) must be a multiple of model.n_heads \(5\)"),
        ({"signal": READ}, "a planted 'single' circuit cannot bring the bit from position 7 to 7 by L1H0@7:8"),
        ({"heads": (HeadPatch(1, 0),)}, "cannot bring the bit from position 2 to 7 by L1H0$"),
        ({"heads": (HeadPatch(1, 0, 4, 5),)}, "cannot bring the bit from position 2 to 7 by L1H0@4:5"),
        ({"kind": "none", "heads": ()}, "cannot bring the bit from position 2 to 7 by no head"),
        ({"kind": "position", "heads": (HeadPatch(1, 1, 4, 5), AT_END)}, "by L1H1@4:5, L1H0@7:8"),  # the same layer
    ],
)
def test_what_is_no_circuit_is_refused(changes, message):
    sound = {"kind": "single", "n_layers": 2, "n_heads": 2, "heads": (AT_END,), "distractors": (), "signal": 2}
    Circuit(**sound)
    with pytest.raises(PilotError, match=message):
        Circuit(**sound | changes)


def test_a_circuit_that_has_no_room_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(PilotError, match="a planted 'position' circuit has no room in 1 layers of 4 heads"):
        random_circuit("position", 1, 4, rng)
    with pytest.raises(PilotError, match="there is no planted circuit 'xor'"):
        random_circuit("xor", 2, 2, rng)
