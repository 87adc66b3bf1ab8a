"""Layouts for a model of 3 layers and 2 heads, over 6 positions."""

import torch

from pilot.interventions import HeadPatch
from pilot.sweep.layout import Layouts, membership
from pilot.sweep.plan import InnerNode, Planner


def test_membership_says_which_heads_a_branch_patches_where():
    position = torch.tensor([[2, 3], [3, 5]])
    member = membership([(), ((1, 0, 4),), ((0, 5, 6), (1, 2, 3), (1, 3, 4))], [0, 1], position)
    assert member.shape == (3, 2, 2, 2)
    assert not member[0].any()
    assert member[1].tolist() == [[[False, True], [False, True]], [[False, True], [False, False]]]
    assert member[2].tolist() == [[[False, True], [False, True]], [[False, True], [True, False]]]
    assert membership([(), ()], [], position).shape == (2, 2, 2, 0)


def test_branches_that_change_the_same_positions_are_one_group():
    interventions = ((), (HeadPatch(0, 0, 1, 3),), (HeadPatch(0, 1, 1, 3),), (HeadPatch(0, 1),))
    plan = Planner(interventions, n_layers=3).plan(0, (5,))
    layout = Layouts(plan, torch.tensor([[5], [5]]), torch.device("cpu")).of(plan.root)
    assert (layout.window, layout.heads, layout.read) == ((0, 6), [0, 1], None)
    assert sorted((group.at.start, group.at.stop, len(group.branches)) for group in layout.groups) == [
        (0, 6, 1),
        (1, 3, 2),
    ]
    assert layout.fan_out == 2


def test_the_last_layer_is_computed_where_each_pair_is_read():
    plan = Planner(((HeadPatch(2, 0),),), n_layers=3).plan(0, (2, 4))
    layouts = Layouts(plan, torch.tensor([[2], [4]]), torch.device("cpu"))
    node = plan.root
    while isinstance(node, InnerNode):
        assert layouts.of(node) is None
        node = node.unchanged
    layout = layouts.of(node)
    assert layout.window == (2, 5)
    assert layout.read.tolist() == [[0], [2]]
    assert layouts.of(node) is layout
