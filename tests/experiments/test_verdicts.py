import numpy as np
import pytest

from pilot.arithmetic.pairs import read_pairs
from pilot.errors import PilotError
from pilot.experiments import verdicts as module
from pilot.experiments.effects import measure_effects
from pilot.experiments.selection import pipeline_targets
from pilot.experiments.verdicts import in_words, patch_pairs, usable_pairs, verdicts
from pilot.interventions import single_heads
from pilot.models.checkpoint import load_model
from pilot.reporting.params import load_params


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained.checkpoint)


@pytest.fixture(scope="module")
def pairs(trained):
    return read_pairs(trained.data / "pilot_pairs.jsonl")


@pytest.fixture(scope="module")
def params(trained):
    return load_params(trained.params).counterfactual


@pytest.fixture
def targets(model):
    return pipeline_targets(tuple(patch for (patch,) in single_heads(model.config)), 2, [])


def test_usable_pairs_are_right_on_both_sides_and_have_a_gap(model, pairs):
    groups, counts = usable_pairs(model, pairs, 1.0, "auto")
    assert sum(count["drawn"] for by_split in counts.values() for count in by_split.values()) == len(pairs)
    usable = [pair for group in groups.values() for pair in group]
    assert 0 < len(usable) < len(pairs)
    for (edit, split), group in groups.items():
        assert all((pair.edit, pair.split) == (edit, split) for pair in group)
        assert len(group) == counts[edit][split]["usable"] <= counts[edit][split]["both_right"]
    effects = measure_effects(model, usable, "noising", [()])
    assert effects.kept.all()
    assert effects.gap.min() >= 1
    wider, _ = usable_pairs(model, pairs, 8.0, "auto")
    assert sum(map(len, wider.values())) < len(usable)


def test_rows_are_means_over_pairs(model, pairs, params, targets):
    rows = patch_pairs(model, pairs, "denoising", targets, params, "auto")
    assert list(rows) == [*targets, "random_k"]
    effects = measure_effects(model, pairs, "denoising", list(targets.values()))
    for i, name in enumerate(targets):
        assert rows[name]["recovery"]["value"] == pytest.approx(effects.change[i].sum() / effects.gap.sum())
        assert rows[name]["mean_of_ratios"] == pytest.approx((effects.change[i] / effects.gap).mean())
        assert rows[name]["flip_rate"]["value"] == pytest.approx(effects.adopted[i].mean())
        assert rows[name]["exact_match"] == pytest.approx(effects.kept[i].mean())
        assert rows[name]["kl"] == pytest.approx(effects.kl[i].mean())
    assert rows["all_heads"]["recovery"]["low"] == pytest.approx(1, abs=1e-3)
    single = [row for name, row in rows.items() if name.startswith("L")]
    assert all(row["p"] <= row["p_bh"] <= row["p_holm"] for row in single)
    assert rows == patch_pairs(model, pairs, "denoising", targets, params, "auto")


def test_a_run_whose_known_controls_fail_is_refused(model, pairs, params, targets, monkeypatch):
    def damaged(model, runs):
        return [z + 0.5 for z in experiment_self_donor(model, runs)]

    experiment_self_donor = module.self_donor
    monkeypatch.setattr(module, "self_donor", damaged)
    with pytest.raises(PilotError, match="the known controls fail: the recipient's own head outputs move"):
        patch_pairs(model, pairs, "denoising", targets, params, "auto")


def row(low, p_holm):
    return {"recovery": {"low": low}, "p_holm": p_holm}


def test_a_verdict_takes_a_large_effect_and_a_significant_test():
    rows = {
        "denoising": {"L0H0": row(0.2, 0.01), "L0H1": row(0.2, 0.2), "L1H0": row(0.05, 0.001)},
        "noising": {"L0H0": row(0.2, 0.01), "L0H1": row(0.3, 0.04), "L1H0": row(-0.2, 0.5)},
    }
    found = verdicts(rows, ["L0H0", "L0H1", "L1H0"], min_effect=0.1)
    assert [in_words(found[name]) for name in found] == ["sufficient and necessary", "necessary", "neither"]
    assert in_words({"sufficient": 1, "necessary": 0, "redundant": 1}) == "sufficient, redundant"


def test_denoising_is_tested_against_a_wrong_donor_and_noising_against_other_heads():
    change = np.array([[3.0] * 8, [1.0] * 8, [1.0] * 8])
    wrong = np.array([[4.0] * 8, [0.0] * 8, [2.0] * 8])
    p = {d: [module._pvalue(change, wrong, i, 3, d) for i in range(3)] for d in ("denoising", "noising")}
    assert p == {"denoising": [1.0, 0.5**8, 1.0], "noising": [0.5**8, 1.0, 1.0]}
