import numpy as np
import pytest

from pilot.arithmetic.examples import Example, buckets_by_length, read_examples
from pilot.arithmetic.scoring import score_model
from pilot.errors import PilotError
from pilot.experiments.repair import Pair, Setting, control_heads, find_pairs, repair_rates, run_pairs
from pilot.interventions import HeadPatch, at_positions, single_heads
from pilot.models.checkpoint import load_model
from pilot.models.hooks import head_outputs, replaced
from pilot.models.transformer import ModelConfig

CONFIG = ModelConfig(n_layers=2, n_heads=3, d_model=6)
SHORT = [Example("1+1", "2"), Example("2+2", "4"), Example("3+3", "6")]
LONG = [Example("1+2+3", "6"), Example("3+2+1", "6")]


@pytest.fixture(scope="module")
def setting(trained) -> Setting:
    model = load_model(trained.checkpoint)
    examples = read_examples(trained.data / "pilot_test_paren.jsonl")
    correct = score_model(model, buckets_by_length(examples)).exact_match.numpy()
    return Setting(model, str(trained.checkpoint), examples, correct, "exact_match")


def test_pairs_share_a_length_or_take_the_next_longer_donor():
    examples = SHORT + LONG
    assert find_pairs(examples, [0], [0, 1, 2, 3], per_recipient=5) == [Pair(0, 1), Pair(0, 2)]
    assert find_pairs(examples, [0, 3], [1, 2], per_recipient=1) == [Pair(0, 1)]
    assert find_pairs(examples, [0], [3, 4], per_recipient=1) == [Pair(0, 3)]
    assert find_pairs(examples, [0], [0], per_recipient=1) == []
    drawn = {tuple(find_pairs(examples, [0], [1, 2], 1, np.random.default_rng(seed))) for seed in range(20)}
    assert drawn == {(Pair(0, 1),), (Pair(0, 2),)}


def test_outcomes_are_those_of_a_patched_run(setting):
    wrong, right = np.flatnonzero(~setting.correct), np.flatnonzero(setting.correct)
    pairs = find_pairs(setting.examples, wrong, right, 2, np.random.default_rng(0))
    interventions = [(), *single_heads(setting.model.config)]
    outcomes = run_pairs(setting, pairs, interventions)
    assert not outcomes.fixed[0].any()
    assert outcomes.fixed.any()
    for j in range(0, len(pairs), 7):
        (donor,) = buckets_by_length([setting.examples[pairs[j].donor]])
        (recipient,) = buckets_by_length([setting.examples[pairs[j].recipient]])
        source = [z[:, : recipient.inputs.shape[1]] for z in head_outputs(setting.model, donor.inputs)]
        for i, intervention in enumerate(interventions):
            with replaced(setting.model, intervention, source):
                predicted = setting.model(recipient.inputs).argmax(-1)
            right_tokens = (predicted == recipient.targets)[recipient.answer]
            assert outcomes.fixed[i, j] == right_tokens.all()


def test_all_heads_everywhere_make_a_copy_of_the_donor_to_itself(setting):
    every = tuple(patch for (patch,) in single_heads(setting.model.config))
    right = np.flatnonzero(setting.correct)[:5]
    outcomes = run_pairs(setting, [Pair(i, i) for i in right], [every])
    assert outcomes.fixed.all()
    assert outcomes.adopted.all()
    assert outcomes.prediction[0].tolist() == [setting.examples[i].result for i in right]


def test_the_answer_of_a_donor_that_was_cut_is_not_adopted(setting):
    by_length = sorted(range(len(setting.examples)), key=lambda i: setting.examples[i].seq_len)
    outcomes = run_pairs(setting, [Pair(by_length[0], by_length[-1])], [(), (HeadPatch(0, 0),)])
    assert setting.examples[by_length[0]].seq_len < setting.examples[by_length[-1]].seq_len
    assert not outcomes.adopted.any()


def test_rates_count_the_outcomes(setting):
    targets = {"L1H1": (HeadPatch(1, 1),), "late": at_positions((HeadPatch(1, 1),), 99, None)}
    results = repair_rates(setting, targets, slice(None), donors_per_recipient=3, seed=0)
    wrong, right = np.flatnonzero(~setting.correct), np.flatnonzero(setting.correct)
    pairs = find_pairs(setting.examples, wrong, right, 3, np.random.default_rng(0))
    fixed = run_pairs(setting, pairs, [targets["L1H1"]]).fixed
    rates = results["repair"]["L1H1"]["right_to_wrong"]
    assert rates["fixed"]["value"] == fixed.mean()
    assert rates["fixed"]["low"] <= fixed.mean() <= rates["fixed"]["high"]
    assert rates["pairs"] == results["pairs"]["right_to_wrong"] == len(pairs)
    assert results["wrong_answers"] == len(wrong)
    assert results["accuracy"] == setting.correct.mean()
    assert "late" not in results["repair"], "no sequence is that long"


def test_without_pairs_only_what_there_is_is_counted(setting):
    right = Setting(setting.model, "", setting.examples, np.ones_like(setting.correct), "exact_match")
    results = repair_rates(right, {"L0H0": (HeadPatch(0, 0),)}, slice(None), donors_per_recipient=1, seed=0)
    assert (results["accuracy"], results["wrong_answers"]) == (1, 0)
    assert results["pairs"] == {"right_to_wrong": 0, "wrong_to_wrong": 0}
    assert results["repair"] == {}
    with pytest.raises(PilotError, match="this half of the test lines has none"):
        repair_rates(right, {"L0H0": (HeadPatch(0, 0),)}, slice(0), donors_per_recipient=1, seed=0)


def test_controls_are_other_heads_of_the_same_layers_and_positions():
    assert control_heads((HeadPatch(1, 2, 3, 5),), CONFIG) == (HeadPatch(1, 0, 3, 5),)
    assert control_heads((HeadPatch(1, 2),), CONFIG, first=1) == (HeadPatch(1, 1),)
    assert control_heads((HeadPatch(0, 0), HeadPatch(1, 0)), CONFIG) == (HeadPatch(0, 1), HeadPatch(1, 1))
    assert control_heads((HeadPatch(0, 0), HeadPatch(0, 1)), CONFIG) is None
