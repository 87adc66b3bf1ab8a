import torch

from pilot.sweep.buffers import Buffer, Buffers, apply, apply_each
from pilot.sweep.program import Affine


def test_a_buffer_is_made_once_and_grows_when_it_must():
    buffer = Buffer(torch.zeros((), dtype=torch.float64))
    first = buffer(2, 3)
    first.fill_(7)
    assert first.dtype == torch.float64
    assert buffer(2, 3) is first
    assert torch.equal(buffer(4), torch.full((4,), 7.0, dtype=torch.float64))  # the same memory

    larger = buffer(5, 3)
    assert larger.shape == (5, 3)
    assert buffer(2, 3).data_ptr() == larger.data_ptr()


def test_every_owner_has_buffers_of_its_own():
    buffers = Buffers(torch.zeros(()), n_layers=2)
    owners = [*buffers.donor, *buffers.recipient, *buffers.layers, buffers.scratch]
    memory = [buffer(3).data_ptr() for owner in owners for buffer in vars(owner).values()]
    assert len(memory) == len(set(memory)) == 2 * (4 + 4 + 3) + len(vars(buffers.scratch))


def test_apply_takes_any_leading_dimensions_and_strides():
    torch.manual_seed(0)
    x, matrix, bias = torch.randn(2, 5, 3)[:, 1:4], torch.randn(3, 4), torch.randn(4)
    buffer = Buffer(matrix)
    torch.testing.assert_close(apply(Affine(matrix), x, buffer), x @ matrix)
    torch.testing.assert_close(apply(Affine(matrix, bias), x, buffer), x @ matrix + bias)
    assert apply(Affine(matrix), x, buffer).data_ptr() == buffer(2, 3, 4).data_ptr()


def test_apply_each_has_a_matrix_for_each_of_the_vectors_in_a_row():
    torch.manual_seed(0)
    x, matrices = torch.randn(5, 2, 4, 3)[:, :, 1:3], torch.randn(2, 3, 6)
    torch.testing.assert_close(apply_each(matrices, x, Buffer(x)), torch.einsum("abni,nij->abnj", x, matrices))
