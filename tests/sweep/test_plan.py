"""Plans of a model of 3 layers and 2 heads, over 6 positions of which the last is read."""

import gc

import pytest
from support.flops import count_work, unpatched_flops

from pilot.interventions import HeadPatch, head_subsets, single_heads, single_positions
from pilot.models.transformer import ModelConfig, PilotTransformer
from pilot.sweep.lowering import lower
from pilot.sweep.plan import Planner

CONFIG = ModelConfig(n_layers=3, n_heads=2, d_model=8, d_mlp=5, context=6, vocab_size=7)
PROGRAM = lower(PilotTransformer(CONFIG))


def plan(interventions, first=0, reads=(5,)):
    return Planner(interventions, CONFIG.n_layers).plan(first, reads)


def work(interventions, first=0, reads=(5,)):
    return count_work(plan(interventions, first, reads), PROGRAM, len(reads))


def test_the_unpatched_run_is_read_off_at_one_position():
    counted = work([()])
    assert (counted.attention, counted.branches, counted.positions) == ((0, 0, 0), (0, 0, 1), (0, 0, 1))


def test_a_patched_head_is_followed_upwards_and_no_further_than_what_is_read():
    # Layer 0: the patched head's branch, 6 positions. Layer 1: one node, one branch, 6. Layer 2: one node, 1 position.
    counted = work([(HeadPatch(0, 1),)])
    assert (counted.attention, counted.branches, counted.positions) == ((0, 1, 1), (1, 1, 1), (6, 6, 1))
    counted = work([(HeadPatch(0, 1),)], reads=(1, 3))
    assert counted.positions == (4, 4, 2)


def test_positions_before_the_first_change_cost_nothing():
    assert work([(HeadPatch(0, 1, 4, 5),)]).positions == (1, 2, 1)  # then attention carries it to the end
    assert work([(HeadPatch(0, 1),)], first=4).positions == (2, 2, 1)
    assert work([(HeadPatch(0, 1, 0, 3),)], first=1).positions == (2, 5, 1)


def test_patches_that_reach_no_read_position_cost_nothing():
    nothing = work([()])
    assert work([(HeadPatch(0, 0, 3, 6),)], reads=(2,)) == work([()], reads=(2,))
    assert work([(HeadPatch(2, 0, 0, 5),)]) == nothing
    assert work([(HeadPatch(1, 0, 2, 4),)], first=6) == nothing


def test_subsets_of_all_heads_share_every_layer_below():
    # 4 sets of 2 heads a layer. Layer 0: 3 branches that change something; layer 1: 3 nodes of 4 branches and the
    # unpatched node with 3; layer 2: 16 nodes, of which the unpatched one's attention is known, of 4 branches.
    counted = work(head_subsets(tuple(patch for (patch,) in single_heads(CONFIG))))
    assert counted.attention == (0, 3, 15)
    assert counted.branches == (3, 15, 64)
    assert counted.positions == (18, 90, 64)


def test_single_heads_and_positions_are_chains():
    counted = work(single_heads(CONFIG))
    assert (counted.attention, counted.branches) == ((0, 2, 4), (2, 4, 6))
    counted = work(single_positions(CONFIG, 6))
    # Layer 0: 2 heads at 6 positions. Layer 1: these 12, carried from t to the end, 2 * (6+5+4+3+2+1), and 12 new ones.
    # Layer 2: 24 nodes; at the one position that is read 2 new branches, and the unpatched run for the other 10.
    assert (counted.attention, counted.positions) == ((0, 12, 24), (12, 42 + 12, 24 + 2 + 1))


def test_interventions_that_come_to_the_same_are_computed_once():
    patches = [(HeadPatch(1, 0),), (HeadPatch(1, 0, 0, 6),), (HeadPatch(1, 0, 0, 4), HeadPatch(1, 0, 2, 6)), ()]
    planned = plan(patches)
    assert planned.duplicates == [(1, 0), (2, 0)]
    assert count_work(planned, PROGRAM, 1) == work([(HeadPatch(1, 0),), ()])
    gap = (HeadPatch(1, 0, 0, 2), HeadPatch(1, 0, 3, 6))
    assert plan([gap, (HeadPatch(1, 0),)]).duplicates == []


def test_floating_point_operations_are_counted_product_by_product():
    d, m, v, head_dim = 8, 5, 7, 4
    read_out = d * d + d * m + m * d + d * v  # W_O, both halves of the MLP, the unembedding
    assert work([()]).flops == 2 * read_out
    # Head 1 of the last layer: once more the second half of the MLP and the unembedding, and what the patch adds.
    assert work([(), (HeadPatch(2, 1),)]).flops == 2 * (read_out + m * d + d * v + head_dim * (d + m))
    # From layer 1 on, at positions 4 and 5: a branch there, then one query over 6 positions. To take it to the residual
    # stream (for 2 heads, and what they see there to values) is cheaper than to make keys and values.
    layer_1 = 2 * (d * d + d * m + head_dim * (d + m)) + 2 * m * d
    layer_2 = d * d + d * d + 2 * (2 * d) * 6 + d * d + read_out
    assert work([(HeadPatch(1, 0, 4, 6),)]).flops == 2 * (layer_1 + layer_2)
    # With positions 2 and 5 read it is not: keys, values and queries of 2 positions, over 5 and 6 keys.
    layer_2 = 2 * 2 * d * d + 2 * d * d + 2 * d * (5 + 6) + 2 * read_out
    assert work([(HeadPatch(1, 0, 4, 6),)], reads=(2, 5)).flops == 2 * (layer_1 + layer_2)


def test_an_unpatched_run_ends_with_the_last_layers_attention():
    usual = 3 * 3 * 64 + 2 * 8 * (1 + 2 + 3)
    rest = 3 * (64 + 2 * 40)
    assert unpatched_flops(plan([()], reads=(0, 2)), PROGRAM) == 2 * (3 * usual + 2 * rest)
    absorbed = 3 * 64 + 2 * (2 * 8) * 3  # one query: it, and to the residual stream; scores and means; to values
    assert unpatched_flops(plan([()], reads=(2,)), PROGRAM) == 2 * (2 * usual + absorbed + 2 * rest)


@pytest.mark.parametrize("enabled", [True, False])
def test_planning_leaves_the_garbage_collector_as_it_was(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        plan(single_heads(CONFIG))
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
