"""The sections of params.yaml that say how a checkpoint is analysed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pilot.runtime.schema import Count, Rate, Resamples, Section, Seed, Share

SampleSize = Annotated[int, Field(ge=2, lt=2**31)]
SampleSizes = Annotated[list[SampleSize], Field(min_length=1)]


class AnalysisParams(Section):
    checkpoint: str


class SweepParams(Section):
    impl: Literal["auto", "fused", "eager", "reference"]


class AblateParams(Section):
    seed: Seed
    resamples: Resamples


class SelectParams(Section):
    ablation: Literal["zero", "mean", "resample"]
    top_k: Count
    min_impact: Share


class CounterfactualParams(Section):
    seed: Seed
    resamples: Resamples
    min_logit_gap: Rate
    random_sets: Count
    min_effect: Share
    min_interaction: Share
    level: Annotated[float, Field(gt=0, lt=1)]
    tolerance: Rate
    exhaustive: bool
    exhaustive_pairs: Annotated[int, Field(ge=2)]


class ApproximationParams(Section):
    """What the sections `attribution` of both pipelines have in common."""

    seed: Seed
    pairs: SampleSize
    top_k: Count
    resamples: Resamples
    set_pairs: SampleSize
    budgets: SampleSizes
    repeats: Count

    @model_validator(mode="after")
    def _sets_are_patched_on_some_of_the_pairs(self) -> Self:
        if self.set_pairs > self.pairs:
            raise ValueError(f"set_pairs must not be more than pairs, which is {self.pairs}")
        return self


class AttributionParams(ApproximationParams):
    steps: Annotated[list[Count], Field(min_length=1)]
    placements: Count
    planted_pairs: SampleSize


class PatchParams(Section):
    seed: Seed
    metric: Literal["exact_match", "final_token"]
    donors_per_recipient: Count
    position_ranges: list[Annotated[str, Field(pattern=r"^\d*:\d*$")]]


class ExamplesParams(Section):
    pairs: Count


class PlantedParams(Section):
    seed: Seed
    placements: Count
    pairs: SampleSizes
    nulls: Count
    null_pairs: SampleSize
    simulations: Count
    coverage_pairs: SampleSizes
    population: SampleSize
    power_effects: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    power_pairs: SampleSizes
    power_circuits: Count
    noise: Share
    resamples: Resamples
