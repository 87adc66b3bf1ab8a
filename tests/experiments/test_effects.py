import numpy as np
import pytest
import torch

from pilot.arithmetic.examples import Example
from pilot.arithmetic.pairs import CounterfactualPair, read_pairs
from pilot.arithmetic.vocabulary import END, encode
from pilot.experiments.effects import logit_difference_changes, measure_effects, own_donor, self_donor, wrong_donor
from pilot.experiments.pairs import paired_runs
from pilot.interventions import HeadPatch, at_positions, single_heads
from pilot.models.checkpoint import load_model
from pilot.models.hooks import head_outputs, replaced


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained.checkpoint)


@pytest.fixture(scope="module")
def pairs(trained):
    return [pair for pair in read_pairs(trained.data / "pilot_pairs.jsonl") if pair.edit == "regroup"]


def answered(model, expression, answer, intervention=(), source=None):
    """Logits at the positions that predict `answer` and its end marker, from a whole forward: (R, V)."""
    ids = torch.tensor([encode(f"{expression}={answer}")])
    with replaced(model, intervention, source), torch.no_grad():
        return model(ids)[0, -len(answer) - 1 :]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_measures_are_those_of_whole_runs(model, pairs, direction):
    interventions = [*single_heads(model.config)[:4], (HeadPatch(0, 1, 2, 5), HeadPatch(2, 0))]
    effects = measure_effects(model, pairs, direction, interventions)
    for p, pair in enumerate(pairs):
        sides = (pair.corrupt, pair.clean) if direction == "denoising" else (pair.clean, pair.corrupt)
        (recipient, own), (donor, its) = ((side.expression, side.result) for side in sides)
        tokens = [[*encode(text)[1:], END] for text in (own, its)]
        part = next(i for i, (a, b) in enumerate(zip(*tokens, strict=False)) if a != b)
        below, above = (token[part] for token in tokens)
        with torch.no_grad():
            source = head_outputs(model, torch.tensor([encode(f"{donor}={its}")]))
            source_own = head_outputs(model, torch.tensor([encode(f"{donor}={own}")]))
        of_donor = answered(model, donor, its)
        assert effects.ld_donor[p] == pytest.approx(float(of_donor[part, above] - of_donor[part, below]), abs=1e-4)
        unpatched = answered(model, recipient, its)[part]
        assert effects.ld_recipient[p] == pytest.approx(float(unpatched[above] - unpatched[below]), abs=1e-4)
        for i, intervention in enumerate(interventions):
            logits = answered(model, recipient, its, intervention, source)
            assert effects.ld[i, p] == pytest.approx(float(logits[part, above] - logits[part, below]), abs=1e-4)
            assert effects.adopted[i, p] == (logits.argmax(-1).tolist() == tokens[1])
            kl = torch.nn.functional.kl_div(
                logits[part].log_softmax(-1), of_donor[part].log_softmax(-1), log_target=True, reduction="sum"
            )
            assert effects.kl[i, p] == pytest.approx(float(kl), abs=1e-4)
            kept = answered(model, recipient, own, intervention, source_own)
            assert effects.kept[i, p] == (kept.argmax(-1).tolist() == tokens[0])
    assert effects.adopted.any()
    assert effects.kept.any()
    assert not effects.kept.all()


def test_all_heads_make_the_donors_run_and_own_outputs_nothing(model, pairs):
    everything = tuple(patch for (patch,) in single_heads(model.config))
    effects = measure_effects(model, pairs, "denoising", [everything])
    np.testing.assert_allclose(effects.change[0], effects.gap, atol=1e-4)
    np.testing.assert_allclose(effects.kl, 0, atol=1e-5)
    unchanged = measure_effects(model, pairs, "denoising", [everything], self_donor)
    np.testing.assert_allclose(unchanged.change, 0, atol=1e-4)


def test_a_fault_in_the_engine_would_show_in_the_own_outputs_control(model, pairs):
    def damaged(model, runs):
        return [z + 0.5 for z in self_donor(model, runs)]

    everything = tuple(patch for (patch,) in single_heads(model.config))
    assert np.abs(measure_effects(model, pairs, "denoising", [everything], damaged).change).max() > 0.1


def test_a_wrong_donor_is_another_pair_of_the_same_length(model):
    expressions = [("1+(2-3)", "(1+2)-3"), ("(4-2)+1", "4-(2+1)"), ("(4-3)-2", "4-(3-2)"), ("(1-2)", "(2-1)")]
    values = [("0", "0"), ("3", "1"), ("1", "3"), ("5", "7")]
    pairs = [
        CounterfactualPair(Example(a, x), Example(b, y), "regroup", "confirm")
        for (a, b), (x, y) in zip(expressions, values, strict=True)
        if x != y
    ]
    seven, five = sorted(paired_runs(pairs, "denoising"), key=lambda runs: -runs.donor.shape[1])
    assert len(seven.donor) == 2
    assert torch.equal(wrong_donor(model, seven), seven.donor.flip(0))
    assert torch.equal(wrong_donor(model, five), own_donor(model, five))  # there is no other


def test_changes_alone_are_those_of_all_measures(model, pairs):
    interventions = [at_positions(head, 3, None) for head in single_heads(model.config)]
    effects = measure_effects(model, pairs, "noising", interventions)
    change, gap = logit_difference_changes(model, pairs, "noising", interventions)
    np.testing.assert_allclose(change, effects.change, atol=1e-4)
    np.testing.assert_allclose(gap, effects.gap, atol=1e-4)
