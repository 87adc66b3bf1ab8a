"""SmolLM2-135M as it is packaged: it knows the tasks, and a patched head is what hooks on W_O make of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from support.project import ROOT

from pilot import HeadPatch, SweepEngine, load_model
from pilot.experiments.effects import PairExperiment
from pilot.language import load_tokenizer
from pilot.language.pairs import tokenised
from pilot.language.tasks import TASKS
from pilot.models.hooks import head_outputs, replaced

PATH = Path(os.environ.get("PILOT_SMOLLM2", ROOT / "runs/language/model"))  # a folder or a GGUF file

pytestmark = pytest.mark.skipif(
    not PATH.exists(), reason=f"no SmolLM2 at {PATH}: `make language` puts it there, PILOT_SMOLLM2 names another place"
)


@pytest.fixture(scope="module")
def experiments() -> dict[str, PairExperiment]:
    """Of 20 pairs of each task."""
    model, tokenizer = load_model(PATH), load_tokenizer(PATH)
    engine = SweepEngine(model)
    return {
        name: PairExperiment(engine, tokenised(task.pairs(10, 0, tokenizer), tokenizer, None).tokens, "denoising")
        for name, task in TASKS.items()
    }


@pytest.mark.parametrize("name", TASKS)
def test_it_answers_both_sides_of_most_pairs(name, experiments):
    experiment = experiments[name]
    assert len(experiment) == 20
    assert experiment.both_right.mean() >= 0.8
    assert experiment.gap.min() > 0


def test_a_patched_head_is_that_of_hooks_on_w_o(experiments):
    experiment = experiments["ioi"].take(range(4))  # of the select split, which has one length
    corrupt, clean = (
        torch.tensor([prompt.ids for prompt in side]) for side in (experiment.recipients, experiment.donors)
    )
    model, head = experiment.engine.model, HeadPatch(23, 3)
    with torch.no_grad(), replaced(model, (head,), head_outputs(model, clean)):
        logits = model(corrupt, logits_to_keep=1).logits[:, 0]
    right, wrong = (
        torch.tensor([[prompt.answer[0]] for prompt in side]) for side in (experiment.donors, experiment.recipients)
    )
    want = (logits.gather(1, right) - logits.gather(1, wrong))[:, 0].numpy() - experiment.ld_recipient
    assert abs(want).min() > 0.5
    assert experiment.changes([(head,)])[0] == pytest.approx(want, abs=2e-4)
