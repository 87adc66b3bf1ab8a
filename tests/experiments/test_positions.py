import numpy as np
import pytest

from pilot.arithmetic.examples import Example
from pilot.arithmetic.pairs import CounterfactualPair
from pilot.arithmetic.prompts import position_labels, token_pairs
from pilot.experiments.effects import PairExperiment
from pilot.experiments.positions import position_map
from pilot.interventions import HeadPatch
from pilot.models.checkpoint import load_model
from pilot.sweep import SweepEngine


def pair(clean, corrupt, x, y):
    return CounterfactualPair(Example(clean, x), Example(corrupt, y), "regroup", "confirm")


PAIRS = token_pairs(
    [
        pair("4-(3-2)", "(4-3)-2", "3", "-1"),
        pair("(4-1)-2", "4-(1-2)", "1", "5"),  # the other way round: another form
        pair("3-(1+2)", "(3-1)+2", "0", "4"),
    ]
)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_most_common_form_is_mapped_head_by_head_and_position_by_position(trained, direction):
    experiment = PairExperiment(SweepEngine(load_model(trained.checkpoint)), PAIRS, direction)
    found = position_map(experiment, [position_labels(pair) for pair in PAIRS])
    assert found.pairs == 2
    assert found.labels == ("^", "n/(", "∘/n", "(/∘", "n", "∘/)", "n/∘", ")/n", "=")
    assert found.recovery.shape == (9, 9)
    effects = experiment.take(np.array([0, 2])).effects([(HeadPatch(1, 2, 4, 5),)])
    assert found.recovery[5, 4] == pytest.approx(effects.change.sum() / experiment.gap[[0, 2]].sum(), abs=1e-4)
    np.testing.assert_allclose(found.recovery[:, 0], 0, atol=1e-5)  # both sides read the same marker
