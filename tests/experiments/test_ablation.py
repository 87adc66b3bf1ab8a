import numpy as np
import pytest
import torch

from pilot.arithmetic.examples import buckets_by_length, read_examples
from pilot.arithmetic.prompts import prompts_of
from pilot.arithmetic.scoring import score, score_model
from pilot.experiments.ablation import METHODS, ablated_correct, impact_estimates
from pilot.experiments.donors import mean_donor, resample_donor, zero_donor
from pilot.inputs.prompts import batches_by_length
from pilot.interventions import single_heads
from pilot.models import hooks
from pilot.models.checkpoint import load_model
from pilot.sweep import SweepEngine


@pytest.mark.parametrize("method", METHODS)
def test_an_ablation_is_a_patch(trained, method):
    model = load_model(trained.checkpoint)
    examples = read_examples(trained.data / "pilot_test_paren.jsonl")
    prompts, buckets = prompts_of(examples), buckets_by_length(examples)
    donor = {
        "zero": lambda: zero_donor(model.config),
        "mean": lambda: mean_donor(model, prompts),
        "resample": lambda: resample_donor(prompts, np.random.default_rng(3)),
    }[method]()
    heads = single_heads(model.config)
    correct = ablated_correct(SweepEngine(model), prompts, [(), *heads], donor)
    assert (correct[0] == score_model(model, buckets).exact_match.numpy()).all()
    assert (correct[1:] != correct[0]).any()
    for batch, bucket in zip(batches_by_length(prompts), buckets, strict=True):
        source = donor(batch)
        if isinstance(source, torch.Tensor):
            source = hooks.head_outputs(model, source)
        for j, head in enumerate(heads):
            with hooks.replaced(model, head, source):
                predicted = model(bucket.inputs).argmax(-1)
            want = score(predicted, bucket.targets, bucket.answer).exact_match
            assert correct[1 + j, bucket.index].tolist() == want.tolist()


def test_impact_is_the_mean_loss_of_each_kind_and_their_difference():
    losses = {"flat": np.array([0, 0, 1, -1]), "paren": np.array([1, 1, 0, 0, 1])}
    estimates = impact_estimates(losses, resamples=200, seed=0)
    assert {name: estimate["value"] for name, estimate in estimates.items()} == pytest.approx(
        {"flat": 0, "paren": 0.6, "paren_minus_flat": 0.6}
    )
    assert estimates == impact_estimates(losses, resamples=200, seed=0)
