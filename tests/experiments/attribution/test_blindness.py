import numpy as np
import pytest

from pilot.experiments.attribution.blindness import Sight, sight, total_sight
from pilot.experiments.attribution.methods import attribution_methods


def test_sight_counts_heads_seen_and_heads_seen_falsely():
    truth, found = np.array([0.5, -0.3, 0.2, 0.05, 0.0]), np.array([0.2, 0.3, 0.1, 0.4, 0.0])
    assert Sight.of(found, truth, 0.1) == Sight(effective=3, seen=1, false=1)
    assert total_sight([{"noising": {"exact": Sight(3, 1, 1)}}] * 2) == {
        "noising": {"exact": {"effective": 6, "seen": 2, "false": 2}}
    }


@pytest.mark.parametrize(("circuit", "direction"), [("and", "noising"), ("or", "denoising")])
def test_gradients_at_either_side_are_blind_to_saturated_gates(circuit, direction):
    seen = sight(circuit, (0, 0), 10, [5], 0.1, "auto")[direction]
    assert seen["exact"] == Sight(2, 2, 0)
    assert seen["ig_activations_5"].seen == 2
    for name in ("atp_recipient", "atp_donor", "atp_mean", "atp_star"):
        assert seen[name].seen == 0, name


def test_one_head_is_seen_by_every_method():
    for by_method in sight("single", (0, 0), 10, [1], 0.1, "auto").values():
        assert {name for name, seen in by_method.items() if seen[:2] == (1, 1)} == {*attribution_methods([1]), "exact"}


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_gradients_do_not_pass_saturated_attention(direction):
    seen = sight("saturated", (0, 0), 10, [5], 0.1, "auto")[direction]
    assert seen["exact"] == seen["ig_activations_5"] == Sight(2, 2, 0)
    for name in ("atp_recipient", "atp_donor", "atp_mean", "atp_star", "relp"):
        assert seen[name].seen == 1, name
