"""The sweep engine: many interventions over many pairs, on one model.

Shapes: P pairs, T positions, R read positions, V vocabulary, M measures, H heads, D head_dim.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pilot.errors import PilotError
from pilot.interventions import Intervention
from pilot.models.hooks import check_unpatched
from pilot.models.sizes import ModelSizes
from pilot.ops.checks import MAX_HEAD_DIM
from pilot.ops.dispatch import runs_fused
from pilot.sweep.inputs import SweepInputs, checked_inputs
from pilot.sweep.lowering import LoweringError, lower
from pilot.sweep.operators import Operators
from pilot.sweep.program import Program
from pilot.sweep.reference import forward_logits, sweep_by_forwards
from pilot.sweep.results import Measure, Measurements
from pilot.sweep.scheduler import Scheduler, row_budget

IMPLS = ("auto", "fused", "eager", "reference")
PROBE_LENGTH = 16

Donor = Tensor | Sequence[Tensor]


class SweepEngine:
    """Sweeps over one model. What does not depend on the pairs is made ready once, and again if the weights change.

    model   of a family that pilot.sweep.lowering knows, or, for the reference, any whose heads pilot.models.hooks
            finds; on the device where it is to run
    impl    "fused" and "eager" compute once what interventions share (pilot.sweep.plan), with the operators of
            pilot.ops or in PyTorch; "reference" runs the whole model for every intervention; "auto" is the first of
            fused, eager and reference that can run this model

    The attribute `impl` is the one chosen. The attribute `rows`, how many (intervention, pair, position) rows are
    computed at a time, is set to what suits model and device; other values change no more than rounding.

    Raises PilotError where `impl` cannot run, and where the engine does not reproduce the model's own logits. Weights
    that are written through `.data` change without a trace: make a new engine then.
    """

    def __init__(self, model: nn.Module, impl: str = "auto"):
        if impl not in IMPLS:
            raise PilotError(f"impl must be {', '.join(IMPLS[:-1])} or {IMPLS[-1]}, not {impl!r}")
        self.model = model
        self._requested = impl
        self._scheduler: Scheduler | None = None
        self._prepared_for: list[tuple[int, int, int]] = []
        self._prepare()

    def run(
        self,
        recipient: Tensor,
        donor: Donor,
        interventions: Sequence[Intervention],
        *,
        read: Tensor,
        tokens: Tensor | None = None,
        measure: Measure | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Patch every intervention's heads of every recipient with its donor's, and measure what the model then says.

        recipient       (P, T) int64 tokens of the runs that are patched
        donor           (P, T) int64 tokens of the runs that head outputs are taken from; or the outputs themselves,
                        for each layer (P or 1, T, H, D)
        interventions   tuples of HeadPatch; the empty tuple is the unpatched run
        read            (P, R) int64, the positions whose logits are wanted
        tokens          (P, K) int64, the tokens whose logits are wanted; None: all V. A logit difference takes two, and
                        the product with a large vocabulary is most of the work of many sweeps
        measure         (logits (rows, R, V or K), pair (rows,) int64) -> (rows, M), on the model's device, called from
                        several threads; None: the logits themselves
        progress        show a progress bar, where standard error is a terminal

        Returns (n_interventions, P, M), or (n_interventions, P, R, V or K) without a measure, on the CPU. No other
        memory grows with the number of interventions or pairs. Raises PilotError for arguments that do not fit the
        model or each other, and for a model on which a patch is set.
        """
        check_unpatched(self.model)
        inputs = checked_inputs(self.model, recipient, donor, interventions, read, tokens)
        if _versions(self.model) != self._prepared_for:
            self._prepare()
        return self._run(inputs, measure, progress)

    def predict(self, recipient: Tensor, donor: Donor, interventions: Sequence[Intervention], read: Tensor) -> Tensor:
        """The arg-max tokens of every patched run at the read positions: (n_interventions, P, R) int64. See `run`."""
        return self.run(recipient, donor, interventions, read=read, measure=lambda logits, _: logits.argmax(-1))

    def _prepare(self) -> None:
        """Decide the implementation, and make the model ready for it."""
        _check_deterministic(self.model)
        weight = next(self.model.parameters()).detach()
        program = None if self._requested == "reference" else self._lowered()
        if program is None:
            self.impl, self._scheduler, self._window = "reference", None, None
            self.rows = row_budget(weight, max(max(weight.shape) for weight in self.model.parameters()))
        else:
            check_unpatched(self.model)
            self.impl = "fused" if runs_fused(self._requested, weight) else "eager"
            self._window = program.window
            self.rows = row_budget(weight, program.row_width)
            self._scheduler = Scheduler(program, Operators.of(self.impl))
            self._check_against_model(ModelSizes.of(self.model), weight)
        self._prepared_for = _versions(self.model)

    def _lowered(self) -> Program | None:
        """The model's program; None, with a warning, where it has none and the reference will do instead."""
        try:
            program = lower(self.model)
            head_dim = max(layer.attention.head_dim for layer in program.layers)
            if head_dim > MAX_HEAD_DIM:
                raise LoweringError(
                    f"the operators take heads of at most {MAX_HEAD_DIM} dimensions, these have {head_dim}"
                )
        except LoweringError as error:
            self._fall_back(str(error))
            return None
        return program

    def _fall_back(self, reason: str) -> None:
        """Say that the reference runs instead. Raises PilotError if another implementation was asked for by name."""
        if self._requested != "auto":
            raise PilotError(f"{reason}: use impl='reference'")
        warnings.warn(f"sweeps run the whole model for every intervention: {reason}", stacklevel=4)

    @torch.no_grad()
    def _run(self, inputs: SweepInputs, measure: Measure | None, progress: bool) -> Tensor:
        n_interventions, n_pairs = len(inputs.interventions), len(inputs.recipient)
        with tqdm(
            total=n_interventions * n_pairs, unit="forward", unit_scale=True, disable=None if progress else True
        ) as bar:
            measurements = Measurements(n_interventions, n_pairs, measure, bar)
            if self._scheduler is None or self._is_too_long(inputs.recipient.shape[1]):
                sweep_by_forwards(self.model, inputs, self.rows, measurements)
            else:
                self._scheduler.run(inputs, self.rows, measurements)
        return measurements.result()

    def _is_too_long(self, seq: int) -> bool:
        """Whether sequences reach beyond the window of some layer, which a program does not model."""
        if self._window is None or seq <= self._window:
            return False
        self._fall_back(f"sequences of {seq} positions reach beyond the model's attention window of {self._window}")
        return True

    @torch.no_grad()
    def _check_against_model(self, sizes: ModelSizes, weight: Tensor) -> None:
        """Raises PilotError unless the engine's logits are the model's own on a probe, within rounding."""
        length = min(PROBE_LENGTH, sizes.context or PROBE_LENGTH, self._window or PROBE_LENGTH)
        ids = torch.randint(0, sizes.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
        logits = forward_logits(self.model, ids.to(weight.device)).cpu()
        if not logits.isfinite().all():  # a diverged model: the sweep gives what it gives, NaN
            return
        precision = torch.finfo(logits.dtype).eps
        tolerance = min(1000 * precision, precision**0.5) * max(1.0, float(logits.abs().max()))
        for read in (torch.arange(length)[None], torch.tensor([[length - 1]])):  # both forms of attention
            got = self._run(SweepInputs(ids, ids, ((),), read), None, progress=False)[0]
            off = float((got - logits[:, read[0]]).abs().max())
            if not off <= tolerance:
                raise PilotError(
                    f"the sweep engine does not reproduce the logits of this {type(self.model).__name__}: they differ "
                    f"by up to {off:.2g}; use impl='reference'"
                )


def sweep(
    model: nn.Module,
    recipient: Tensor,
    donor: Donor,
    interventions: Sequence[Intervention],
    *,
    read: Tensor,
    measure: Measure | None = None,
    impl: str = "auto",
    progress: bool = False,
) -> Tensor:
    """One sweep of a model: `SweepEngine(model, impl).run(...)`, which says what the arguments are."""
    return SweepEngine(model, impl).run(recipient, donor, interventions, read=read, measure=measure, progress=progress)


def _check_deterministic(model: nn.Module) -> None:
    """Raises PilotError for a model that drops out at random."""
    in_attention = float(getattr(getattr(model, "config", None), "attention_dropout", 0.0) or 0.0)
    if model.training and (in_attention or any(isinstance(m, nn.Dropout) and m.p for m in model.modules())):
        raise PilotError("the model is in training mode and drops out at random: call model.eval() first")


def _versions(model: nn.Module) -> list[tuple[int, int, int]]:
    """What changes whenever a weight is replaced or written in place."""
    return [
        (id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for weight in chain(model.parameters(), model.buffers())
    ]
