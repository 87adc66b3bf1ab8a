"""What a sweep computes, counted from its plan: nodes, positions and floating-point operations for each pair."""

from __future__ import annotations

from dataclasses import dataclass

from pilot.models.transformer import ModelConfig
from pilot.sweep.layer_attention import absorbs
from pilot.sweep.plan import LastNode, Plan


@dataclass(frozen=True)
class Work:
    """Per pair, layer by layer; the runs of recipient and donor themselves are not in it.

    attention   nodes whose attention is computed; the unpatched run's is known
    branches    ways to patch the layer that are computed
    positions   positions of all branches, each of them one row through the second half of the MLP
    flops       of all matrix products and attention: two for each multiplication and addition
    """

    attention: tuple[int, ...]
    branches: tuple[int, ...]
    positions: tuple[int, ...]
    flops: int


def count_work(plan: Plan, config: ModelConfig, n_reads: int) -> Work:
    """Count what pilot.sweep.executor does for a pair of which `n_reads` positions are read."""
    last, d, m = config.n_layers - 1, config.d_model, config.d_mlp
    attention, branches, positions = ([0] * config.n_layers for _ in range(3))
    products = 0
    for node in plan.nodes():
        window = plan.window(node)
        if window is None:
            continue
        rows = n_reads if node.layer == last else window[1] - window[0]
        if node.changed is not None:
            low, high = node.changed
            first = max(low, window[0])
            attention[node.layer] += 1
            absorbed = node.layer == last and absorbs(plan, d, config.n_heads)
            products += _attention(config, absorbed, high - low, max(0, high - first), range(first, plan.end))
        if isinstance(node, LastNode):
            patches, spans = node.patches, [rows] * len(node.patches)
        else:
            patches = [branch.patches for branch in node.branches]
            spans = [branch.changed[1] - branch.changed[0] for branch in node.branches]
        heads = {head for of_branch in patches for head, _, _ in of_branch}
        products += rows * (d * d + d * m + len(heads) * config.head_dim * (d + m))
        products += sum(spans) * (m * d + (d * config.vocab_size if node.layer == last else 0))
        branches[node.layer] += len(spans)
        positions[node.layer] += sum(spans)
    return Work(tuple(attention), tuple(branches), tuple(positions), 2 * products)


def unpatched_flops(plan: Plan, config: ModelConfig) -> int:
    """Of the run of one recipient or donor, up to the last layer's attention."""
    d, end, start = config.d_model, plan.end, plan.reads[0]
    usual = _attention(config, False, end, end, range(end))
    last = _attention(config, absorbs(plan, d, config.n_heads), end, end - start, range(start, end))
    rest = end * (d * d + 2 * d * config.d_mlp)
    return 2 * ((config.n_layers - 1) * (usual + rest) + last)


def _attention(config: ModelConfig, absorbed: bool, changed: int, new: int, queries: range) -> int:
    """Multiplications of a layer's attention to `queries`, `new` ones among them, when `changed` positions changed."""
    d, seen = config.d_model, sum(query + 1 for query in queries)
    if absorbed:  # queries, taken to the residual stream; scores and means of that for each head; these to values
        return new * 2 * d * d + 2 * config.n_heads * d * seen + len(queries) * d * d
    return changed * 2 * d * d + new * d * d + 2 * d * seen
