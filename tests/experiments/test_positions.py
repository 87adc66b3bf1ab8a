import numpy as np
import pytest

from pilot.arithmetic.examples import Example
from pilot.arithmetic.pairs import CounterfactualPair
from pilot.experiments.effects import measure_effects
from pilot.experiments.positions import form, position_map
from pilot.interventions import HeadPatch
from pilot.models.checkpoint import load_model


def pair(clean, corrupt, x, y):
    return CounterfactualPair(Example(clean, x), Example(corrupt, y), "regroup", "confirm")


PAIRS = [
    pair("4-(3-2)", "(4-3)-2", "3", "-1"),
    pair("(4-1)-2", "4-(1-2)", "1", "5"),  # the other way round: another form
    pair("3-(1+2)", "(3-1)+2", "0", "4"),
]


def test_digits_and_operators_are_forgotten():
    assert form("(12+3)*4-5") == "(nn∘n)∘n∘n"


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_most_common_form_is_mapped_head_by_head_and_position_by_position(trained, direction):
    model = load_model(trained.checkpoint)
    found = position_map(model, PAIRS, direction)
    assert found.pairs == 2
    assert found.symbols == ["^", "n/(", "∘/n", "(/∘", "n", "∘/)", "n/∘", ")/n", "="]
    assert found.recovery.shape == (9, 9)
    effects = measure_effects(model, [PAIRS[0], PAIRS[2]], direction, [(HeadPatch(1, 2, 4, 5),)])
    assert found.recovery[5, 4] == pytest.approx(effects.change.sum() / effects.gap.sum(), abs=1e-4)
    np.testing.assert_allclose(found.recovery[:, 0], 0, atol=1e-5)  # both sides read the same marker
