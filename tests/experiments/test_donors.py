import numpy as np
import torch

from pilot.experiments.donors import ConstantDonor, SelfDonor, TokenDonor, mean_donor, resample_donor, zero_donor
from pilot.inputs.prompts import Prompt, batches_by_length
from pilot.models.hooks import head_outputs

SHORT = [Prompt((1, 2), (3, 4)), Prompt((5, 6), (7, 4))]
LONG = [Prompt((1, 2, 3, 1, 2), (6, 4))]


def test_other_tokens_take_the_place_of_the_first_and_the_answer_stays():
    (batch,) = batches_by_length(SHORT)
    assert TokenDonor([(8, 9), (0, 1)])(batch).tolist() == [[8, 9, 3], [0, 1, 7]]
    assert batch.inputs.tolist() == [[1, 2, 3], [5, 6, 7]], "the recipient stays as it was"


def test_the_recipients_own_outputs(small_model):
    (batch,) = batches_by_length(SHORT)
    for z, own in zip(SelfDonor(small_model)(batch), head_outputs(small_model, batch.inputs), strict=True):
        torch.testing.assert_close(z, own)


def test_zeros_and_means_are_cut_to_the_length_of_the_run(small_model):
    (batch,) = batches_by_length(SHORT)
    zeros = zero_donor(small_model.config)(batch)
    assert [z.shape for z in zeros] == [(1, 3, 2, 4)] * 3
    assert not torch.stack(zeros).any()
    ramp = torch.arange(10.0).reshape(1, 10, 1, 1)
    assert ConstantDonor([ramp])(batch)[0].flatten().tolist() == [0, 1, 2]


def test_the_mean_is_over_the_prompts_that_reach_a_position(small_model):
    means = mean_donor(small_model, SHORT + LONG, batch_size=1).z
    short, long = (head_outputs(small_model, batch.inputs) for batch in batches_by_length(SHORT + LONG))
    for layer in range(3):
        assert means[layer].shape == (1, 10, 2, 4)
        every = torch.cat([short[layer], long[layer][:, :3]])
        torch.testing.assert_close(means[layer][0, :3], every.mean(0))
        torch.testing.assert_close(means[layer][0, 3:6], long[layer][0, 3:])
        assert not means[layer][0, 6:].any()


def test_another_example_is_never_the_same_one():
    prompts = [Prompt((i, j), (i + j, 0)) for i in range(5) for j in range(5)]
    (batch,) = batches_by_length(prompts)
    for seed in range(20):
        donor = resample_donor(prompts, np.random.default_rng(seed))(batch)
        assert (donor != batch.inputs).any(1).all()
        assert sorted(donor.tolist()) == sorted(batch.inputs.tolist())


def test_an_example_alone_in_its_length_takes_a_longer_one_and_the_longest_keeps_its_own():
    prompts = [*LONG, SHORT[0]]
    short, long = batches_by_length(prompts)
    donor = resample_donor(prompts, np.random.default_rng(0))
    assert donor(short).tolist() == [[1, 2, 3]]
    assert donor(long).tolist() == long.inputs.tolist()
