import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.errors import PilotError
from pilot.experiments.planted.circuits import READ, SEQ_LEN, Circuit, draw_pairs, random_circuit
from pilot.experiments.planted.kinds import KINDS, WORDS, Channel, shared
from pilot.experiments.planted.measurements import plant_and_pair
from pilot.experiments.planted.weights import plant
from pilot.interventions import HeadPatch, at_positions, head_subsets, single_heads
from pilot.models.hooks import head_outputs

N_PAIRS = 400


def planted(kind: str, n_layers: int, n_heads: int, seed: int, noise: float = 0.0):
    rng = np.random.default_rng(seed)
    circuit = random_circuit(KINDS[kind], n_layers, n_heads, rng)
    return circuit, plant_and_pair(circuit, N_PAIRS, noise, rng)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([*KINDS]), st.integers(2, 4), st.integers(2, 4), st.integers(0, 2**32))
def test_the_answer_is_the_bit_at_the_signal_position(kind, n_layers, n_heads, seed):
    circuit, experiments = planted(kind, n_layers, n_heads, seed, noise=0.3)
    for experiment in experiments.values():
        assert not experiment.engine.model.training
        assert experiment.both_right.all()
        assert experiment.gap.mean() == pytest.approx(20, rel=0.15)
    clean = experiments["noising"].recipients
    assert all(prompt.answer == (prompt.ids[circuit.signal] % 2,) for prompt in clean)


# What a set of the planted heads recovers, in the order (), (first), (second), (both), (third), ...
SETS = {
    "single": ([0, 1], [0, 1]),
    "and": ([0, 0, 0, 1], [0, 1, 1, 1]),
    "or": ([0, 1, 1, 1], [0, 0, 0, 1]),
    "chain": ([0, 1, 1, 1], [0, 1, 1, 1]),
    "negative": ([0, 1.5, -0.5, 1],) * 2,
    "graded": ([0, 0.9, 0.5, 1.4, 0.1, 1, 0.6, 1.5, -0.5, 0.4, 0, 0.9, -0.4, 0.5, 0.1, 1],) * 2,
    # One code in eight is the same by chance, and then nothing is lost.
    "damage": ([0, 1, 7 / 16, 9 / 16, 7 / 16, 9 / 16, 0, 1],) * 2,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(2, 4), (4, 3)])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_planted_heads_work_together_as_their_kind_says(kind, size, noise):
    circuit, experiments = planted(kind, *size, 0, noise)
    for (direction, experiment), want in zip(experiments.items(), SETS[kind], strict=True):
        for heads in (circuit.heads, at_positions(circuit.heads, 0, None)):
            recovery = experiment.recovery(head_subsets(heads))
            assert recovery == pytest.approx(want, abs=0.1 if noise or kind == "damage" else 0.03), direction


@pytest.mark.parametrize("kind", KINDS)
def test_heads_without_a_part_in_the_answer_recover_nothing_but_noise(kind):
    circuit, experiments = planted(kind, 3, 3, 1, noise=0.3)
    heads = single_heads(circuit.config)
    planted_heads = at_positions(circuit.heads, 0, None)
    others = [i for i, (head,) in enumerate(heads) if head not in planted_heads]
    for experiment in experiments.values():
        recovery = experiment.changes(heads)[others] / experiment.gap
        assert np.abs(recovery.mean(1)).max() < 4 * 0.5 / N_PAIRS**0.5
        assert 0.15 < recovery.std(1).mean() < 0.45
        assert experiment.recovery([planted_heads]) == pytest.approx([1], abs=0.05), "the noise of all of them cancels"
        assert experiment.recovery([tuple(head for (head,) in heads)]) == pytest.approx([1])


def test_pairs_differ_in_how_much_of_the_answer_a_head_writes():
    _, experiments = planted("single", 2, 4, 2)
    gap = experiments["denoising"].gap
    assert gap.min() > 2
    assert gap.std() > 0.1 * gap.mean()
    skewness = ((gap - gap.mean()) ** 3).mean() / gap.std() ** 3
    assert skewness > 0.3


def test_damage_comes_from_any_donor():
    circuit, experiments = planted("damage", 2, 4, 3)
    experiment = experiments["denoising"]
    index, wrong = experiment.wrong_donor()
    assert len(index) == N_PAIRS
    signal, *codes = [(head,) for head in at_positions(circuit.heads, 0, None)]
    for head in codes:
        own, other = (experiment.changes([head], donor)[0] / experiment.gap for donor in (None, wrong))
        assert own.mean() == pytest.approx(other.mean(), abs=0.1)
        assert own.mean() > 0.3
    assert experiment.changes([signal], wrong).mean() == pytest.approx(0, abs=0.1)


def test_two_heads_of_one_layer_and_of_different_layers_are_planted():
    drawn = [random_circuit(KINDS["or"], 3, 2, np.random.default_rng(seed)).heads for seed in range(50)]
    assert {first.layer - second.layer for first, second in drawn} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("seed", range(3))
def test_distractors_write_much_and_change_little(seed):
    circuit, experiments = planted("single", 4, 4, seed)
    experiment = experiments["denoising"]
    model = experiment.engine.model
    clean, corrupt = (
        head_outputs(model, torch.tensor([prompt.ids for prompt in prompts]))
        for prompts in (experiment.donors, experiment.recipients)
    )

    def written(patch):  # how far the two runs' outputs are apart in the residual stream where the answer is read
        weight = model.blocks[patch.layer].attn.out.weight.view(-1, 4, 9)[:, patch.head]
        difference = clean[patch.layer] - corrupt[patch.layer]
        return (difference[:, READ, patch.head] @ weight.T).norm(dim=1).mean().item()

    assert len(circuit.distractors) == 7
    # A bit is +1 or -1 in two coordinates, and writes half of it: 2**0.5 apart.
    assert np.mean([written(patch) for patch in circuit.distractors]) > 3 * 2**0.5
    assert np.abs(experiment.changes([circuit.distractors]) / experiment.gap).max() < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_a_head_that_matters_at_one_position_can_be_patched_at_all_others(seed):
    circuit, experiments = planted("chain", 3, 3, seed)
    between, last = circuit.heads
    assert circuit.signal < between.start < READ == last.start
    for experiment in experiments.values():
        for head in circuit.heads:
            before = at_positions((head,), 0, head.start)
            after = at_positions((head,), head.stop, None) if head.stop < SEQ_LEN else ()
            assert np.abs(experiment.changes([before + after]) / experiment.gap).max() < 0.01


def test_pairs_share_the_last_token_which_says_which_bit_is_the_clean_one():
    circuit = random_circuit(KINDS["and"], 2, 2, np.random.default_rng(0))
    pairs = draw_pairs(circuit, 100, np.random.default_rng(0))
    clean, corrupt = (np.array([getattr(pair, side).ids for pair in pairs]) for side in ("clean", "corrupt"))
    assert np.array_equal(clean[:, READ], corrupt[:, READ])
    assert np.array_equal(clean[:, READ] % 2, clean[:, circuit.signal] % 2)
    assert (clean[:, circuit.signal] % 2 != corrupt[:, circuit.signal] % 2).all()
    assert (clean[:, READ] % 2).mean() == 0.5
    other = [t for t in range(READ) if t != circuit.signal]
    assert (clean[:, other] != corrupt[:, other]).mean() > 0.95


def test_the_same_seed_plants_the_same_model():
    circuit = random_circuit(KINDS["and"], 2, 2, np.random.default_rng(4))
    one, other = (plant(circuit, np.random.default_rng(4), 0.3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_words_are_earned_by_recoveries_above_the_least_effect():
    circuit = random_circuit(KINDS["graded"], 2, 4, np.random.default_rng(0))
    first, second, third, _ = circuit.heads
    assert circuit.earned("sufficient", 0.1) == circuit.earned("necessary", 0.1) == (first, second)
    assert circuit.earned("position", 0.05) == (first, second, third)
    assert circuit.earned("redundant", 0.05) == ()
    edge = random_circuit(shared(10, 0.1), 5, 2, np.random.default_rng(0))
    assert all(edge.earned(word, 0.1) == () for word in WORDS)
    assert random_circuit(shared(10, 0.2), 5, 2, np.random.default_rng(0)).heads[:1] == random_circuit(
        shared(10, 0.2), 5, 2, np.random.default_rng(0)
    ).earned("sufficient", 0.1)


def test_channels_do_not_overlap():
    assert max(c for c in Channel if c not in (Channel.NUISANCE, Channel.RESIDUE)) < Channel.NUISANCE


AT_END = HeadPatch(1, 0, READ, READ + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": (HeadPatch(2, 0, READ, READ + 1),)}, "layer 2 does not exist"),
        ({"distractors": (HeadPatch(0, 5),)}, "head 5 does not exist"),
        ({"distractors": (HeadPatch(1, 0),)}, "a planted 'single' circuit names a head twice"),
        ({"kind": KINDS["and"]}, "a planted 'and' circuit has 2 heads, not 1"),
        ({"n_heads": 5}, r"model.d_model \(36\) must be a multiple of model.n_heads \(5\)"),
        ({"signal": READ}, "a planted 'single' circuit cannot bring the bit from position 7 to 7 by L1H0@7:8"),
        ({"heads": (HeadPatch(1, 0),)}, "cannot bring the bit from position 2 to 7 by L1H0$"),
        ({"heads": (HeadPatch(1, 0, 4, 5),)}, "cannot bring the bit from position 2 to 7 by L1H0@4:5"),
        ({"kind": KINDS["chain"], "heads": (HeadPatch(1, 1, 4, 5), AT_END)}, "by L1H1@4:5, L1H0@7:8"),  # one layer
    ],
)
def test_what_is_no_circuit_is_refused(changes, message):
    sound = {"kind": KINDS["single"], "n_layers": 2, "n_heads": 2, "heads": (AT_END,), "distractors": (), "signal": 2}
    Circuit(**sound)
    with pytest.raises(PilotError, match=message):
        Circuit(**sound | changes)


def test_a_circuit_that_has_no_room_is_refused():
    with pytest.raises(PilotError, match="a planted 'chain' circuit has no room in 1 layers of 4 heads"):
        random_circuit(KINDS["chain"], 1, 4, np.random.default_rng(0))
