from dataclasses import replace

import numpy as np
import pytest

from pilot.arithmetic.examples import Example, buckets_by_length, read_examples
from pilot.arithmetic.prompts import prompts_of
from pilot.arithmetic.scoring import score_model
from pilot.errors import PilotError
from pilot.experiments.repair import RepairExperiment, Transplant, control_heads, match_donors
from pilot.inputs.prompts import make_batch
from pilot.interventions import HeadPatch, at_positions, single_heads
from pilot.models import hooks
from pilot.models.checkpoint import load_model
from pilot.models.transformer import ModelConfig
from pilot.sweep import SweepEngine

CONFIG = ModelConfig(n_layers=2, n_heads=3, d_model=6)
SHORT = prompts_of([Example("1+1", "2"), Example("2+2", "4"), Example("3+3", "6")])
LONG = prompts_of([Example("1+2+3", "6"), Example("3+2+1", "6")])


@pytest.fixture(scope="module")
def experiment(trained) -> RepairExperiment:
    model = load_model(trained.checkpoint)
    examples = read_examples(trained.data / "pilot_test_paren.jsonl")
    correct = score_model(model, buckets_by_length(examples)).exact_match.numpy()
    return RepairExperiment(SweepEngine(model), prompts_of(examples), correct)


def test_donors_are_as_long_or_the_next_longer():
    prompts = SHORT + LONG
    assert match_donors(prompts, [0], [0, 1, 2, 3], per_recipient=5) == [Transplant(0, 1), Transplant(0, 2)]
    assert match_donors(prompts, [0, 3], [1, 2], per_recipient=1) == [Transplant(0, 1)]
    assert match_donors(prompts, [0], [3, 4], per_recipient=1) == [Transplant(0, 3)]
    assert match_donors(prompts, [0], [0], per_recipient=1) == []
    drawn = {tuple(match_donors(prompts, [0], [1, 2], 1, np.random.default_rng(seed))) for seed in range(20)}
    assert drawn == {(Transplant(0, 1),), (Transplant(0, 2),)}


@pytest.mark.parametrize("metric", ["exact_match", "final_token"])
def test_outcomes_are_those_of_a_patched_run(experiment, metric):
    model, prompts = experiment.engine.model, experiment.prompts
    wrong, right = np.flatnonzero(~experiment.correct), np.flatnonzero(experiment.correct)
    transplants = match_donors(prompts, wrong, right, 2, np.random.default_rng(0))
    interventions = [(), *single_heads(model.config)]
    outcomes = replace(experiment, metric=metric).run(transplants, interventions)
    if metric == "exact_match":
        assert not outcomes.fixed[0].any()
    assert outcomes.fixed.any()
    for j in range(0, len(transplants), 7):
        recipient = make_batch(prompts, [transplants[j].recipient], prompts[transplants[j].recipient].seq_len)
        donor = make_batch(prompts, [transplants[j].donor], prompts[transplants[j].donor].seq_len)
        source = [z[:, : recipient.inputs.shape[1]] for z in hooks.head_outputs(model, donor.inputs)]
        for i, intervention in enumerate(interventions):
            with hooks.replaced(model, intervention, source):
                predicted = model(recipient.inputs).argmax(-1)
            right_tokens = (predicted == recipient.targets)[recipient.answer]
            assert outcomes.fixed[i, j] == (right_tokens.all() if metric == "exact_match" else right_tokens[-1])
            assert outcomes.given[i, j] == tuple(predicted[recipient.answer].tolist())


def test_all_heads_everywhere_make_a_copy_of_the_donor_to_itself(experiment):
    every = tuple(patch for (patch,) in single_heads(experiment.engine.model.config))
    right = np.flatnonzero(experiment.correct)[:5].tolist()
    outcomes = experiment.run([Transplant(i, i) for i in right], [every])
    assert outcomes.fixed.all()
    assert outcomes.adopted.all()
    assert outcomes.given[0].tolist() == [experiment.prompts[i].answer for i in right]


def test_the_answer_of_a_donor_that_was_cut_is_not_adopted(experiment):
    by_length = sorted(range(len(experiment.prompts)), key=lambda i: experiment.prompts[i].seq_len)
    outcomes = experiment.run([Transplant(by_length[0], by_length[-1])], [(), (HeadPatch(0, 0),)])
    assert experiment.prompts[by_length[0]].seq_len < experiment.prompts[by_length[-1]].seq_len
    assert not outcomes.adopted.any()


def test_rates_count_the_outcomes(experiment):
    targets = {"L1H1": (HeadPatch(1, 1),), "late": at_positions((HeadPatch(1, 1),), 99, None)}
    results = experiment.rates(targets, slice(None), donors_per_recipient=3, seed=0)
    wrong, right = np.flatnonzero(~experiment.correct), np.flatnonzero(experiment.correct)
    transplants = match_donors(experiment.prompts, wrong, right, 3, np.random.default_rng(0))
    fixed = experiment.run(transplants, [targets["L1H1"]]).fixed
    rates = results["repair"]["L1H1"]["right_to_wrong"]
    assert rates["fixed"]["value"] == fixed.mean()
    assert rates["fixed"]["low"] <= fixed.mean() <= rates["fixed"]["high"]
    assert rates["pairs"] == results["pairs"]["right_to_wrong"] == len(transplants)
    assert results["wrong_answers"] == len(wrong)
    assert results["accuracy"] == experiment.correct.mean()
    assert "late" not in results["repair"], "no sequence is that long"


def test_without_pairs_only_what_there_is_is_counted(experiment):
    right = replace(experiment, correct=np.ones_like(experiment.correct))
    results = right.rates({"L0H0": (HeadPatch(0, 0),)}, slice(None), donors_per_recipient=1, seed=0)
    assert (results["accuracy"], results["wrong_answers"]) == (1, 0)
    assert results["pairs"] == {"right_to_wrong": 0, "wrong_to_wrong": 0}
    assert results["repair"] == {}
    with pytest.raises(PilotError, match="this half of the test lines has none"):
        right.rates({"L0H0": (HeadPatch(0, 0),)}, slice(0), donors_per_recipient=1, seed=0)


def test_controls_are_other_heads_of_the_same_layers_and_positions():
    assert control_heads((HeadPatch(1, 2, 3, 5),), CONFIG) == (HeadPatch(1, 0, 3, 5),)
    assert control_heads((HeadPatch(1, 2),), CONFIG, first=1) == (HeadPatch(1, 1),)
    assert control_heads((HeadPatch(0, 0), HeadPatch(1, 0)), CONFIG) == (HeadPatch(0, 1), HeadPatch(1, 1))
    assert control_heads((HeadPatch(0, 0), HeadPatch(0, 1)), CONFIG) is None
