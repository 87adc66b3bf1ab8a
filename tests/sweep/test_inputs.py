"""Every implementation refuses the same arguments, in words."""

import pytest
import torch
from support.project import no_compiler

from pilot.errors import PilotError
from pilot.interventions import HeadPatch, single_heads
from pilot.models.hooks import head_outputs
from pilot.sweep import SweepEngine

needs_compiler = pytest.mark.skipif(no_compiler() is not None, reason=str(no_compiler()))
ONE = [(HeadPatch(0, 1),)]


@pytest.fixture(params=["reference", "eager", pytest.param("fused", marks=needs_compiler)])
def run(request, small_model):
    """A sweep of 7 pairs of 6 tokens, read at 2 positions, with some arguments replaced."""
    torch.manual_seed(1)
    recipient, donor = torch.randint(0, 17, (2, 7, 6))
    arguments = {"recipient": recipient, "donor": donor, "interventions": ONE, "read": torch.tensor([[1, 5]] * 7)}
    engine = SweepEngine(small_model, request.param)
    return lambda **changes: engine.run(**arguments | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interventions": [(HeadPatch(3, 0),)]}, "layer 3 does not exist"),
        ({"interventions": [(HeadPatch(0, 2),)]}, "head 2 does not exist"),
        ({"interventions": [(HeadPatch(0, 0, 4, 7),)]}, "positions 4:7 are outside the sequence of 6"),
        ({"interventions": [HeadPatch(0, 0)]}, r"tuples of HeadPatch, such as \(HeadPatch\(0, 1\),\), not of 0"),
        ({"interventions": []}, "at least one intervention, one pair and one position"),
        ({"recipient": torch.zeros(7, 6)}, r"recipient must be a 2-dimensional int64 tensor, not \(7, 6\) float32"),
        ({"recipient": torch.zeros(6, dtype=torch.int64)}, r"recipient must be a 2-dimensional .* not \(6,\) int64"),
        ({"recipient": torch.full((7, 6), 17)}, r"recipient holds tokens outside the vocabulary \(0 to 16\): 17"),
        ({"donor": torch.full((7, 6), -1)}, r"donor holds tokens outside the vocabulary \(0 to 16\): -1"),
        ({"donor": torch.zeros(7, 6)}, r"donor must hold int64 tokens, not \(7, 6\) float32"),
        (
            {"donor": torch.zeros(6, 6, dtype=torch.int64)},
            r"recipient \(7, 6\), donor \(6, 6\) and read \(7, 2\) do not fit",
        ),
        ({"read": torch.tensor([[6]] * 7)}, r"read holds positions outside the sequence of 6 positions \(0 to 5\): 6"),
        ({"read": torch.tensor([[5]] * 6)}, r"recipient \(7, 6\), donor \(7, 6\) and read \(6, 1\) do not fit"),
        ({"read": torch.tensor([[5.0]] * 7)}, r"read must be a 2-dimensional int64 tensor, not \(7, 1\) float32"),
        ({"read": torch.zeros(7, 0, dtype=torch.int64)}, "at least one intervention, one pair and one position"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(run, changes, message):
    with pytest.raises(PilotError, match=message):
        run(**changes)


def test_a_sequence_longer_than_the_context_is_refused_whatever_is_read(run):
    ids = torch.zeros(7, 11, dtype=torch.int64)
    with pytest.raises(PilotError, match="a sequence of 11 tokens does not fit the model's context of 10"):
        run(recipient=ids, donor=ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: [*z, z[0]], "donor has head outputs of 4 layers, the model has 3 layers"),
        (lambda z: z[:2], "donor has head outputs of 2 layers, the model has 3 layers"),
        (lambda z: [z[0], z[1][:3], z[2]], r"donor's layer 1 must be \(7 or 1, 6, 2, 4\) float32, not \(3, 6, 2, 4\)"),
        (lambda z: [x[:, :5] for x in z], r"layer 0 must be .* not \(7, 5, 2, 4\) float32"),
        (lambda z: [torch.cat([x, x], 1) for x in z], r"layer 0 must be .* not \(7, 12, 2, 4\) float32"),
        (lambda z: [x[:, :, :1] for x in z], r"layer 0 must be .* not \(7, 6, 1, 4\) float32"),
        (lambda z: [x.flatten(2) for x in z], r"layer 0 must be .* not \(7, 6, 8\) float32"),
        (lambda z: [x.double() for x in z], r"layer 0 must be .* float32, not \(7, 6, 2, 4\) float64"),
        (lambda z: [x.long() for x in z], r"layer 0 must be .* float32, not \(7, 6, 2, 4\) int64"),
    ],
)
def test_head_outputs_that_do_not_fit_are_refused(run, small_model, change, message):
    outputs = head_outputs(small_model, torch.randint(0, 17, (7, 6)))
    run(donor=outputs)
    with pytest.raises(PilotError, match=message):
        run(donor=change(outputs))


def test_interventions_may_be_lists(run, small_model):
    as_lists = [list(intervention) for intervention in single_heads(small_model)]
    assert torch.equal(run(interventions=as_lists), run(interventions=single_heads(small_model)))
