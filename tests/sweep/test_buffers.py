import torch

from pilot.sweep.buffers import Buffers


def test_a_buffer_is_made_once_and_grows_when_it_must():
    buffers = Buffers(torch.zeros((), dtype=torch.float64))
    first = buffers.get("x", (2, 3))
    first.fill_(7)
    assert first.dtype == torch.float64
    assert buffers.get("x", (2, 3)) is first
    assert torch.equal(buffers.get("x", (4,)), torch.full((4,), 7.0, dtype=torch.float64))  # the same memory
    assert buffers.get("y", (2, 3)).data_ptr() != first.data_ptr()

    larger = buffers.get("x", (5, 3))
    assert larger.shape == (5, 3)
    assert buffers.get("x", (2, 3)).data_ptr() == larger.data_ptr()


def test_matmul_takes_any_leading_dimensions_and_strides():
    torch.manual_seed(0)
    x, matrix, bias = torch.randn(2, 5, 3)[:, 1:4], torch.randn(3, 4), torch.randn(4)
    buffers = Buffers(matrix)
    torch.testing.assert_close(buffers.matmul("y", x, matrix), x @ matrix)
    torch.testing.assert_close(buffers.matmul("y", x, matrix, bias), x @ matrix + bias)
    assert buffers.matmul("y", x, matrix).data_ptr() == buffers.get("y", (2, 3, 4)).data_ptr()


def test_matmul_each_has_a_matrix_for_each_of_the_vectors_in_a_row():
    torch.manual_seed(0)
    x, matrices = torch.randn(5, 2, 4, 3)[:, :, 1:3], torch.randn(2, 3, 6)
    want = torch.einsum("abni,nij->abnj", x, matrices)
    torch.testing.assert_close(Buffers(x).matmul_each("y", x, matrices), want)
