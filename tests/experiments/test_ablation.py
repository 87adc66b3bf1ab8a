import numpy as np
import pytest
import torch

from pilot.arithmetic.examples import Example, buckets_by_length, read_examples
from pilot.arithmetic.scoring import score, score_model
from pilot.experiments.ablation import _other_examples, ablated_correct, mean_head_outputs
from pilot.interventions import single_heads
from pilot.models.checkpoint import load_model
from pilot.models.hooks import head_outputs, replaced

SHORT = [Example("1+1", "2"), Example("2+2", "4")]
LONG = [Example("1+2+3", "6")]


def test_the_mean_is_over_the_examples_that_reach_a_position(small_model):
    buckets = buckets_by_length(SHORT + LONG)
    means = mean_head_outputs(small_model, buckets, batch_size=1)
    short, long = (head_outputs(small_model, bucket.inputs) for bucket in buckets)
    for layer in range(3):
        assert means[layer].shape == (1, 10, 2, 4)
        every = torch.cat([short[layer], long[layer][:, :6]])
        torch.testing.assert_close(means[layer][0, :6], every.mean(0))
        torch.testing.assert_close(means[layer][0, 6:8], long[layer][0, 6:])
        assert not means[layer][0, 8:].any()


@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
def test_an_ablation_is_a_patch(trained, method):
    model = load_model(trained.checkpoint)
    buckets = buckets_by_length(read_examples(trained.data / "pilot_test_paren.jsonl"))
    means = mean_head_outputs(model, buckets)
    heads = single_heads(model.config)
    correct = ablated_correct(model, buckets, [(), *heads], method, means, np.random.default_rng(3))
    assert (correct[0] == score_model(model, buckets).exact_match.numpy()).all()
    assert (correct[1:] != correct[0]).any()
    rng = np.random.default_rng(3)
    for i, bucket in enumerate(buckets):
        seq = bucket.inputs.shape[1]
        source = {
            "zero": lambda seq=seq: [torch.zeros(1, seq, *z.shape[2:]) for z in means],
            "mean": lambda seq=seq: [z[:, :seq] for z in means],
            "resample": lambda i=i: head_outputs(model, _other_examples(buckets[i:], rng)),
        }[method]()
        for j, head in enumerate(heads):
            with replaced(model, head, source):
                predicted = model(bucket.inputs).argmax(-1)
            want = score(predicted, bucket.targets, bucket.answer).exact_match
            assert correct[1 + j, bucket.index].tolist() == want.tolist()


def test_another_example_is_never_the_same_one():
    examples = [Example(f"{i}+{j}", str(i + j)) for i in range(5) for j in range(5) if i + j < 10]
    buckets = buckets_by_length(examples)
    for seed in range(20):
        donor = _other_examples(buckets, np.random.default_rng(seed))
        assert (donor != buckets[0].inputs).any(1).all()
        assert sorted(donor.tolist()) == sorted(buckets[0].inputs.tolist())


def test_an_example_alone_in_its_length_takes_a_longer_one():
    buckets = buckets_by_length([SHORT[0], *LONG])
    donor = _other_examples(buckets, np.random.default_rng(0))
    assert donor.tolist() == buckets[1].inputs[:, : buckets[0].inputs.shape[1]].tolist()
