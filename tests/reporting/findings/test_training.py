from dataclasses import replace

from pilot.reporting.findings.training import accuracy, seeds, seeds_are_stale, training, trajectory
from pilot.reporting.seeds import comparable


def test_accuracy_is_that_of_the_best_checkpoint(measured):
    finding = accuracy(measured)
    assert "the best checkpoint gives the whole answer right for 97.0% of flat and 91.0%" in finding.text
    assert finding.table.rows[1] == ["parenthesised", "91.00%", "95.00%", "99.90%"]


def test_training_says_when_half_of_the_answers_are_right(measured):
    # Validation accuracy is epoch / 10 and epoch / 11, over 10 epochs.
    assert "for the first time: flat ones in epoch 5 and parenthesised ones in epoch 6." in training(measured).text
    early = replace(measured, training=measured.training[:5])
    assert "flat ones in epoch 5 and parenthesised ones never." in training(early).text


def test_heads_over_training(measured):
    finding = trajectory(measured)
    assert "L0H1 by ablation impact (0.42, half of it by epoch 5)" in finding.text
    assert finding.plot.muted == {"L0H0", "L1H0"}  # neither selected nor leading
    assert list(finding.plot.panels) == ["ablation impact", "denoising", "noising"]


def test_an_effect_that_is_not_positive_has_no_half(measured):
    rows = [{**row, "value": f"-{row['value']}"} for row in measured.trajectory]
    assert "L1H0 by ablation impact (-0.07)" in trajectory(replace(measured, trajectory=rows)).text


def test_heads_over_training_without_recovery(measured):
    rows = [row for row in measured.trajectory if row["measure"] not in ("denoising", "noising")]
    assert list(trajectory(replace(measured, trajectory=rows)).plot.panels) == ["ablation impact"]


def test_seeds_are_compared(measured):
    finding = seeds(measured)
    assert "with 3 seeds" in finding.text
    assert "recover 0.50 to 0.70 by denoising" in finding.text
    assert "sufficient for 0 of 3 seeds, necessary for 2 of 3 seeds." in finding.text
    assert finding.table.rows[0] == ["exact match, paren", "0.5", "0.6", "0.7"]


def test_a_comparison_of_seeds_without_the_present_results_is_stale(measured):
    stale = "made from other results than those on this page"
    assert seeds_are_stale(measured)
    assert stale in seeds(measured).text
    present = comparable(measured.train, measured.counterfactual, measured.best_sets)
    current = replace(measured, seeds={"seed 7": present})
    assert not seeds_are_stale(current)
    assert stale not in seeds(current).text
    assert seeds_are_stale(replace(current, counterfactual={}))
    assert not seeds_are_stale(replace(measured, seeds={}))


def test_what_is_missing_is_said(measured):
    assert "dvc repro trajectory" in trajectory(replace(measured, trajectory=[])).text
    assert "python -m stages.seeds" in seeds(replace(measured, seeds={})).text
