"""All of params.yaml, for those who look at everything: the report, and the tests."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationInfo, field_validator

from pilot.arithmetic.params import DataParams
from pilot.experiments.params import (
    AblateParams,
    AnalysisParams,
    AttributionParams,
    CounterfactualParams,
    ExamplesParams,
    PatchParams,
    PlantedParams,
    SelectParams,
    SweepParams,
)
from pilot.runtime.schema import Section, read_params, validated
from pilot.training.params import ModelParams, TrainParams


class Params(Section):
    """All of params.yaml; the sections carry the comments there."""

    data: DataParams
    model: ModelParams
    train: TrainParams
    analysis: AnalysisParams
    sweep: SweepParams
    ablate: AblateParams
    select: SelectParams
    counterfactual: CounterfactualParams
    attribution: AttributionParams
    patch: PatchParams
    examples: ExamplesParams
    planted: PlantedParams

    @field_validator("analysis")
    @classmethod
    def _kept(cls, analysis: AnalysisParams, info: ValidationInfo) -> AnalysisParams:
        train = info.data.get("train")  # None if it is wrong itself
        if train and analysis.checkpoint not in train.checkpoints:
            raise ValueError(
                f"checkpoint {analysis.checkpoint!r} is none that training keeps ({', '.join(train.checkpoints)}); for "
                "another epoch, up to train.num_epochs, add it to train.snapshot_epochs"
            )
        return analysis


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check a params file.

    Raises PilotError that names the key for one that is missing, unknown, given twice, ill-typed or out of range.
    """
    return validated(path, read_params(path), Params)
