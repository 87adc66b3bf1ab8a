"""What a sweep computes, counted from its plan: nodes, positions and floating-point operations for each pair."""

from __future__ import annotations

from dataclasses import dataclass

from pilot.sweep.layer_attention import absorbs
from pilot.sweep.layers import FoldedLayer, NormedLayer, ParallelLayer, layer_of
from pilot.sweep.operators import Operators
from pilot.sweep.plan import LastNode, Plan
from pilot.sweep.program import AttentionProgram, Program


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


def count_work(plan: Plan, program: Program, n_reads: int, n_tokens: int | None = None) -> Work:
    """Count what pilot.sweep.executor does for a pair of which `n_reads` positions are read.

    n_tokens   how many logits are wanted there; None: those of the whole vocabulary
    """
    n_layers, (d, vocab) = len(program.layers), program.unembed.weight.shape
    last = n_layers - 1
    attention, branches, positions = ([0] * n_layers for _ in range(3))
    products = 0
    for node in plan.nodes():
        window = plan.window(node)
        if window is None:
            continue
        layer = program.layers[node.layer]
        rows = n_reads if node.layer == last else window[1] - window[0]
        if node.changed is not None:
            low, high = node.changed
            first = max(low, window[0])
            attention[node.layer] += 1
            absorbed = node.layer == last and absorbs(layer.attention, plan)
            products += _attention(layer.attention, absorbed, high - low, max(0, high - first), range(first, plan.end))
        if isinstance(node, LastNode):
            patches, spans = node.patches, [rows] * len(node.patches)
        else:
            patches = [branch.patches for branch in node.branches]
            spans = [branch.changed[1] - branch.changed[0] for branch in node.branches]
        heads = {head for of_branch in patches for head, _, _ in of_branch}
        kind = layer_of(layer, Operators.of("eager"))
        out, read, write = (affine.weight.numel() for affine in (layer.attention.out, layer.mlp.read, layer.mlp.write))
        by_node, by_branch = {
            FoldedLayer: (out + read, write),
            ParallelLayer: (out + read + write, 0),
            NormedLayer: (out, read + write),
        }[type(kind)]
        products += rows * (by_node + len(heads) * layer.attention.head_dim * kind.term_columns)
        products += sum(spans) * (by_branch + (d * (n_tokens or vocab) if node.layer == last else 0))
        branches[node.layer] += len(spans)
        positions[node.layer] += sum(spans)
    return Work(tuple(attention), tuple(branches), tuple(positions), 2 * products)


def unpatched_flops(plan: Plan, program: Program) -> int:
    """Of the run of one recipient or donor, up to the last layer's attention."""
    end, start = plan.end, plan.reads[0]
    *inner, last = program.layers
    products = _attention(last.attention, absorbs(last.attention, plan), end, end - start, range(start, end))
    for layer in inner:
        products += _attention(layer.attention, False, end, end, range(end))
        matrices = (layer.attention.out, layer.mlp.read, layer.mlp.write)
        products += end * sum(affine.weight.numel() for affine in matrices)
    return 2 * products


def _attention(program: AttentionProgram, absorbed: bool, changed: int, new: int, queries: range) -> int:
    """Multiplications of a layer's attention to `queries`, `new` ones among them, when `changed` positions changed."""
    seen = sum(query + 1 for query in queries)
    d, width = program.q.weight.shape
    if absorbed:  # queries, taken to the residual stream; scores and means of that for each head; these to values
        return new * 2 * d * width + 2 * program.n_heads * d * seen + len(queries) * d * width
    return changed * (program.k.weight.numel() + program.v.weight.numel()) + new * d * width + 2 * width * seen
