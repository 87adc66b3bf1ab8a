import torch

from pilot.sweep.buffers import Workspace


def test_a_buffer_is_made_once_and_grows_when_it_must():
    space = Workspace(torch.zeros((), dtype=torch.float64))
    first = space.buffer("x", (2, 3))
    first.fill_(7)
    assert first.dtype == torch.float64
    assert space.buffer("x", (2, 3)) is first
    assert torch.equal(space.buffer("x", (4,)), torch.full((4,), 7.0, dtype=torch.float64))  # the same memory
    assert space.buffer("y", (2, 3)).data_ptr() != first.data_ptr()

    larger = space.buffer("x", (5, 3))
    assert larger.shape == (5, 3)
    assert space.buffer("x", (2, 3)).data_ptr() == larger.data_ptr()


def test_matmul_takes_any_leading_dimensions_and_strides():
    torch.manual_seed(0)
    x, matrix, bias = torch.randn(2, 5, 3)[:, 1:4], torch.randn(3, 4), torch.randn(4)
    space = Workspace(matrix)
    torch.testing.assert_close(space.matmul("y", x, matrix), x @ matrix)
    torch.testing.assert_close(space.matmul("y", x, matrix, bias), x @ matrix + bias)
    assert space.matmul("y", x, matrix).data_ptr() == space.buffer("y", (2, 3, 4)).data_ptr()


def test_matmul_each_has_a_matrix_for_each_of_the_vectors_in_a_row():
    torch.manual_seed(0)
    x, matrices = torch.randn(5, 2, 4, 3)[:, :, 1:3], torch.randn(2, 3, 6)
    want = torch.einsum("abni,nij->abnj", x, matrices)
    torch.testing.assert_close(Workspace(x).matmul_each("y", x, matrices), want)
