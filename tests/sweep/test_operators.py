import pytest
import torch
from support.project import no_compiler

from pilot.sweep.buffers import Buffer
from pilot.sweep.operators import EAGER_ROWS, Operators
from pilot.sweep.program import Affine

IMPLS = ["eager", pytest.param("fused", marks=pytest.mark.skipif(bool(no_compiler()), reason=str(no_compiler())))]


@pytest.mark.parametrize("impl", IMPLS)
def test_apply_takes_any_leading_dimensions_and_strides(impl):
    torch.manual_seed(0)
    x, matrix, bias = torch.randn(2, 5, 3)[:, 1:4], torch.randn(3, 4), torch.randn(4)
    buffer, operators = Buffer(matrix), Operators.of(impl)
    torch.testing.assert_close(operators.apply(Affine(matrix), x, buffer), x @ matrix)
    torch.testing.assert_close(operators.apply(Affine(matrix, bias), x, buffer), x @ matrix + bias)
    assert operators.apply(Affine(matrix), x, buffer).data_ptr() == buffer(2, 3, 4).data_ptr()


@pytest.mark.parametrize("impl", IMPLS)
def test_apply_each_has_a_matrix_for_each_of_the_vectors_in_a_row(impl):
    torch.manual_seed(0)
    x, matrices = torch.randn(5, 2, 4, 3)[:, :, 1:3], torch.randn(2, 3, 6)
    found = Operators.of(impl).apply_each(matrices, x, Buffer(x))
    torch.testing.assert_close(found, torch.einsum("abni,nij->abnj", x, matrices))


@pytest.mark.parametrize(
    ("nodes", "branches", "rows"), [(3, 2, EAGER_ROWS), (2, 700, 1), (900, 1, 1), (2, 3, 2 * EAGER_ROWS)]
)
def test_eager_branches_are_computed_in_parts_that_make_the_whole(nodes, branches, rows):
    torch.manual_seed(0)
    d, m, heads = 4, 6, 2
    state, terms = torch.randn(nodes, rows, 1, d + m), torch.randn(heads, nodes, rows, 1, d + m)
    member = torch.rand(branches, rows, 1, heads) < 0.5
    weights = (torch.randn(m), torch.randn(d), torch.randn(m, d), 1e-5, "gelu")
    out = torch.full((nodes, branches, rows, 1, d), torch.nan)
    Operators.of("eager").branched_mlp(state, terms, member, *weights, out=out)
    added = torch.einsum("cbwk,knbwj->ncbwj", member.float(), terms)
    x, inputs = (state[:, None] + added).split([d, m], dim=-1)
    hidden = torch.nn.functional.gelu(inputs * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) + weights[0])
    torch.testing.assert_close(out, x + weights[1] + hidden @ weights[2], atol=1e-4, rtol=1e-4)
