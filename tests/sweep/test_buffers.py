import torch

from pilot.sweep.buffers import Buffer, Buffers


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
    owners = [*buffers.unpatched, *buffers.layers, buffers.scratch]
    memory = [buffer(3).data_ptr() for owner in owners for buffer in vars(owner).values()]
    assert len(memory) == len(set(memory)) == 2 * (4 + 3) + len(vars(buffers.scratch))
