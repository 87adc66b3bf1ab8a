from dataclasses import replace

import numpy as np
import pytest

from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.errors import PilotError
from pilot.experiments.donors import SelfDonor
from pilot.experiments.effects import PairExperiment
from pilot.experiments.selection import pipeline_targets
from pilot.experiments.statistics import selection_frequency, sign_test
from pilot.experiments.verdicts import measure_targets, stability, verdicts
from pilot.experiments.words import in_words
from pilot.interventions import single_heads
from pilot.models.checkpoint import load_model
from pilot.reporting.params import load_params
from pilot.sweep import SweepEngine


@pytest.fixture(scope="module")
def experiments(trained):
    engine = SweepEngine(load_model(trained.checkpoint))
    pairs = token_pairs(read_pairs(trained.data / "pilot_pairs.jsonl"))
    return {direction: PairExperiment(engine, pairs, direction) for direction in ("denoising", "noising")}


@pytest.fixture
def experiment(experiments):
    return experiments["denoising"]


@pytest.fixture(scope="module")
def params(trained):
    return load_params(trained.params).counterfactual


@pytest.fixture
def heads(experiment):
    return single_heads(experiment.engine.model.config)


@pytest.fixture
def targets(heads):
    return pipeline_targets(tuple(patch for (patch,) in heads), 2, [])


def test_rows_are_means_over_pairs(experiment, params, targets):
    rows = measure_targets(experiment, targets, params)
    assert list(rows) == [*targets, "random_k"]
    effects = experiment.effects(list(targets.values()))
    for i, name in enumerate(targets):
        assert rows[name]["recovery"]["value"] == pytest.approx(effects.change[i].sum() / experiment.gap.sum())
        assert rows[name]["mean_of_ratios"] == pytest.approx((effects.change[i] / experiment.gap).mean())
        assert rows[name]["flip_rate"]["value"] == pytest.approx(effects.adopted[i].mean())
        assert rows[name]["exact_match"] == pytest.approx(effects.kept[i].mean())
        assert rows[name]["kl"] == pytest.approx(effects.kl[i].mean())
    assert rows["all_heads"]["recovery"]["low"] == pytest.approx(1, abs=1e-3)
    single = [row for name, row in rows.items() if name.startswith("L")]
    assert all(row["p"] <= row["p_bh"] <= row["p_holm"] for row in single)
    assert rows == measure_targets(experiment, targets, params)
    assert "wrong_donor" not in rows["random_k"]


def test_sufficiency_is_tested_against_a_wrong_donor_and_necessity_against_the_other_heads(
    experiments, params, targets, heads
):
    # With a threshold far below every effect only the control is left to be tested.
    lenient = params.model_copy(update={"min_effect": -5.0})
    least = 2 / (params.resamples + 1)
    denoising, noising = (measure_targets(experiment, targets, lenient) for experiment in experiments.values())
    index, donor = experiments["denoising"].wrong_donor()
    own = experiments["denoising"].changes(heads)[:, index]
    wrong = experiments["denoising"].take(index).changes(heads, donor)
    gap = experiments["denoising"].gap[index]
    against_others = experiments["noising"].changes(heads)
    for i, (head,) in enumerate(heads):
        expected = sign_test(own[i], wrong[i], alternative="greater")
        assert denoising[head.name]["p"] == pytest.approx(max(least, expected))
        assert denoising[head.name]["wrong_donor"]["value"] == pytest.approx(wrong[i].sum() / gap.sum(), abs=1e-5)
        others = np.delete(against_others, i, axis=0).mean(0)
        expected = max(least, sign_test(against_others[i], others, alternative="greater"))
        assert noising[head.name]["p"] == pytest.approx(expected, rel=0.5)  # a near tie may fall to either side
    strict = measure_targets(experiments["noising"], targets, params.model_copy(update={"min_effect": 5.0}))
    assert {strict[head.name]["p"] for (head,) in heads} == {1}, "no effect is so large"


def test_pairs_without_a_wrong_donor_are_left_out_of_its_test(experiment, params, targets, monkeypatch):
    index, donor = experiment.wrong_donor()
    rows = measure_targets(experiment, targets, params)

    def half(self):
        return index[::2], type(donor)(donor.tokens[::2])

    monkeypatch.setattr(PairExperiment, "wrong_donor", half)
    of_half = measure_targets(experiment, targets, params)
    assert of_half["L0H0"]["recovery"] == rows["L0H0"]["recovery"]
    assert of_half["L0H0"]["wrong_donor"] != rows["L0H0"]["wrong_donor"]
    monkeypatch.setattr(PairExperiment, "wrong_donor", lambda self: (index[:0], type(donor)([])))
    of_none = measure_targets(experiment, targets, params)
    assert "wrong_donor" not in of_none["L0H0"]
    assert {row["p"] for name, row in of_none.items() if name.startswith("L")} == {1.0}, "no head is sufficient"


def test_without_selected_heads_there_are_no_random_sets(experiment, params, targets):
    rows = measure_targets(experiment, {name: targets[name] for name in targets if "_k" not in name}, params)
    assert "random_k" not in rows
    assert "p_holm" not in rows["all_heads"]


def test_a_run_whose_known_controls_fail_is_refused(experiment, params, targets, monkeypatch):
    def damaged(self, batch, undamaged=SelfDonor.__call__):
        return [z + 0.5 for z in undamaged(self, batch)]

    monkeypatch.setattr(SelfDonor, "__call__", damaged)
    with pytest.raises(PilotError, match="the known controls fail: the recipient's own head outputs move"):
        measure_targets(experiment, targets, params)


def test_all_heads_need_not_make_the_donors_run_where_the_prompts_end_differently(experiment, params, targets):
    pairs = [replace(pair, corrupt=pair.corrupt._replace(ids=(*pair.corrupt.ids[:-1], 3))) for pair in experiment.pairs]
    parted = PairExperiment(experiment.engine, pairs, "denoising")
    everything = [targets["all_heads"]]
    assert np.abs(parted.changes(everything)[0] - parted.gap).max() > params.tolerance
    assert measure_targets(parted, targets, params)["all_heads"]["recovery"]["value"] != pytest.approx(1, abs=1e-3)


def test_one_pair_is_too_few(experiment, params, targets):
    with pytest.raises(PilotError, match="1 pair: an interval needs at least 2"):
        measure_targets(experiment.take(np.array([0])), targets, params)


def test_stability_is_how_often_a_head_is_among_the_first(experiment, heads):
    shares = stability(experiment, 2, 200, seed=3)
    frequency = selection_frequency(experiment.changes(heads), 2, 200, np.random.default_rng(3))
    assert shares == {head.name: share for (head,), share in zip(heads, frequency, strict=True)}
    assert sum(shares.values()) == pytest.approx(2)


def test_a_verdict_takes_a_significant_test_in_its_direction(params):
    rows = {
        "denoising": {"L0H0": {"p_holm": 0.01}, "L0H1": {"p_holm": 0.2}, "L1H0": {"p_holm": 0.06}},
        "noising": {"L0H0": {"p_holm": 0.01}, "L0H1": {"p_holm": 0.04}, "L1H0": {"p_holm": 0.5}},
    }
    assert params.level == 0.05
    found = verdicts(rows, ["L0H0", "L0H1", "L1H0"], params)
    assert [in_words(found[name]) for name in found] == ["sufficient and necessary", "necessary", "neither"]
    stricter = verdicts(rows, ["L0H1"], params.model_copy(update={"level": 0.03}))
    assert in_words(stricter["L0H1"]) == "neither"
    assert in_words({"sufficient": 1, "necessary": 0, "redundant": 1}) == "sufficient, redundant"


def test_too_few_resamples_to_give_a_verdict_are_refused(experiment, params, targets):
    with pytest.raises(PilotError, match=r"300 resamples are too few to correct 10 tests at 0.05.*take more than 400"):
        measure_targets(experiment, targets, params.model_copy(update={"resamples": 300}))
