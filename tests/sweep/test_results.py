import numpy as np
import pytest
import torch
from tqdm import tqdm

from pilot.sweep.results import Measurements


def measurements(n_interventions: int, n_pairs: int, measure=None) -> Measurements:
    return Measurements(n_interventions, n_pairs, measure, tqdm(disable=True))


def test_values_go_where_their_intervention_and_pair_are():
    collected = measurements(2, 3, lambda logits, pair: torch.stack([logits[:, 0, 0], pair.float()], 1))
    collected.put(np.array([1, 0]), torch.arange(4.0).view(2, 2, 1, 1), torch.tensor([2, 0]))
    collected.put([0, 1], torch.tensor([7.0, 8.0]).view(2, 1, 1, 1), torch.tensor([1]))
    assert collected.result().tolist() == [[[3, 0], [7, 1], [2, 2]], [[1, 0], [8, 1], [0, 2]]]


def test_duplicates_repeat_what_was_measured():
    collected = measurements(3, 1)
    collected.put([1], torch.ones(1, 1, 1, 2), torch.tensor([0]))
    collected.repeat([(0, 1), (2, 1)], torch.tensor([0]))
    assert collected.result().eq(1).all()


@pytest.mark.parametrize(
    ("numbers", "first"), [([0, 2], 1), ([0, 1], 2), ([0, 1, 1], 1)], ids=["one left out", "the last", "one twice"]
)
def test_a_result_with_holes_is_refused(numbers, first):
    collected = measurements(3, 2)
    for number in numbers:
        collected.put([number], torch.ones(1, 2, 1, 2), torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match=f"the first of them number {first}: this is a defect of the sweep engine"):
        collected.result()


def test_an_intervention_that_missed_a_pair_is_refused():
    collected = measurements(1, 2)
    collected.put([0], torch.ones(1, 1, 1, 2), torch.tensor([1]))
    with pytest.raises(RuntimeError, match="1 of 1 interventions were not measured once on each of 2 pairs"):
        collected.result()


def test_a_sweep_that_measured_nothing_is_refused():
    with pytest.raises(RuntimeError, match="2 of 2 interventions"):
        measurements(2, 2).result()
