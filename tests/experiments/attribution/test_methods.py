from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.llama_like import llama_like
from support.tiny_models import VOCAB, tiny_model
from torch import nn

from pilot.errors import PilotError
from pilot.experiments.attribution import runs
from pilot.experiments.attribution.methods import (
    attribution_methods,
    attribution_patching,
    exact,
    integrated_gradients,
    relevance_patching,
)
from pilot.experiments.attribution.rules import RelevanceRules
from pilot.experiments.attribution.runs import GradientRuns, token_embedding
from pilot.experiments.effects import PairExperiment
from pilot.inputs.pairs import DIRECTIONS, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.interventions import single_heads
from pilot.models.hooks import head_outputs, output_projections, replaced
from pilot.sweep import SweepEngine
from pilot.sweep.reference import forward_logits

GRADIENT_METHODS = [name for name in attribution_methods([1, 3]) if "ablation" not in name]


def draw_pairs(n: int, vocab: int, seed: int = 0) -> list[TokenPair]:
    """Of two lengths; some answers part at their second token."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        clean, corrupt = rng.integers(vocab, size=(2, 5 + i % 2)).tolist()
        start = (3,) if i % 3 else ()
        pairs.append(TokenPair(Prompt(tuple(clean), (*start, 1)), Prompt(tuple(corrupt), (*start, 2))))
    return pairs


def experiment_on(model: nn.Module, vocab: int, direction: str = "denoising", n: int = 6) -> PairExperiment:
    return PairExperiment(SweepEngine(model, "reference"), draw_pairs(n, vocab), direction)


class LinearLayer(nn.Module):
    """Heads that mix positions by fixed weights, and a linear MLP."""

    def __init__(self, width: int, direct: bool):
        super().__init__()
        self.attn = nn.ModuleDict({"v": nn.Linear(width, width), "out": nn.Linear(width, width)})
        self.mlp = nn.Linear(width, width)
        self.direct = direct

    def forward(self, x, embedded):
        read = embedded if self.direct else x
        mixed = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril() @ self.attn["v"](read)
        x = x + self.attn["out"](mixed)
        return x if self.direct else x + self.mlp(x)


class LinearModel(nn.Module):
    """Linear in the embeddings. With `direct` no layer reads what another wrote."""

    def __init__(self, direct: bool):
        super().__init__()
        self.config = SimpleNamespace(n_layers=3, n_heads=2, head_dim=4, vocab_size=VOCAB, context=16)
        self.embed = nn.Embedding(VOCAB, 8)
        self.layers = nn.ModuleList(LinearLayer(8, direct) for _ in range(3))
        self.unembed = nn.Linear(8, VOCAB)

    def forward(self, ids):
        x = embedded = self.embed(ids)
        for layer in self.layers:
            x = layer(x, embedded)
        return self.unembed(x)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_gradients_are_exact_in_a_linear_model(name, direction):
    torch.manual_seed(0)
    experiment = experiment_on(LinearModel(direct=name == "atp_star").double().eval(), VOCAB, direction)
    truth = exact(experiment).change
    found = attribution_methods([1, 3])[name](experiment).change
    assert np.abs(truth).min() > 1e-4
    np.testing.assert_allclose(found, truth, atol=1e-5)


def models() -> dict:
    return {"llama-like": (llama_like, 17)} | {
        name: (lambda name=name: tiny_model(name), VOCAB) for name in ("pilot", "gpt2", "llama", "gemma3", "gpt-neox")
    }


@pytest.fixture(params=models())
def experiment(request) -> PairExperiment:
    make, vocab = models()[request.param]
    return experiment_on(make().double(), vocab)


@pytest.mark.parametrize("side", ["recipient", "donor"])
def test_attribution_patching_is_a_finite_difference(experiment, side):
    """Of the step towards the donor's z, or at the donor away from the recipient's."""
    found = attribution_patching(experiment, side).change
    model, step = experiment.engine.model, 1e-3  # some norms compute in float32 whatever the model's type
    tolerance = 5e-3 * np.abs(found).max()
    for batch in GradientRuns(experiment).batches():
        ids = getattr(batch, side)
        with torch.no_grad():
            before, after = head_outputs(model, batch.recipient), head_outputs(model, batch.donor)
            here = before if side == "recipient" else after
            for head, intervention in enumerate(single_heads(model)):
                ld = []
                for sign in (1, -1):
                    there = [z + sign * step * (b - a) for z, a, b in zip(here, before, after, strict=True)]
                    with replaced(model, intervention, there):
                        logits = forward_logits(model, ids)[:, -1].gather(1, batch.answers)
                    ld.append(logits[:, 0] - logits[:, 1])
                slope = (ld[0] - ld[1]) / (2 * step)
                np.testing.assert_allclose(found[head, batch.index], slope.numpy(), atol=tolerance)


def test_the_mean_of_both_sides(experiment):
    both = [attribution_patching(experiment, side).change for side in ("recipient", "donor")]
    np.testing.assert_allclose(attribution_patching(experiment, "mean").change, np.mean(both, axis=0))


def test_integrated_gradients_of_a_layer_add_up_to_patching_the_layer(experiment):
    """The fundamental theorem of calculus, along the path of z."""
    model = experiment.engine.model
    heads = single_heads(model)
    n_heads = len(heads) // len(output_projections(model))
    layers = [tuple(head for (head,) in heads[i : i + n_heads]) for i in range(0, len(heads), n_heads)]
    found = integrated_gradients(experiment, 40, "activations").change
    by_layer = found.reshape(len(layers), n_heads, -1).sum(1)
    truth = experiment.changes(layers)
    assert np.abs(by_layer - truth).max() < 0.03 * np.abs(truth).max()


def test_the_rules_change_gradients_and_no_values(experiment):
    batch = next(GradientRuns(experiment).batches())
    plain = GradientRuns(experiment).gradients(batch.recipient, batch.answers)
    model = experiment.engine.model
    with torch.no_grad():
        logits = forward_logits(model, batch.recipient)
        with RelevanceRules():
            torch.testing.assert_close(forward_logits(model, batch.recipient), logits)
    with RelevanceRules():
        ruled = GradientRuns(experiment).gradients(batch.recipient, batch.answers)
    assert not torch.allclose(ruled.gradient[0], plain.gradient[0])


def test_rules_worked_out_by_hand():
    def slopes(function, *values):
        leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
        with RelevanceRules():
            result = function(*leaves)
        return [gradient.tolist() for gradient in torch.autograd.grad(result.sum(), leaves)]

    functional = torch.nn.functional
    x = [1.0, -2.0]
    gelu, silu = (f(torch.tensor(x, dtype=torch.float64)).tolist() for f in (functional.gelu, functional.silu))
    assert slopes(functional.gelu, x) == [pytest.approx([gelu[0] / 1, gelu[1] / -2])]
    assert slopes(functional.silu, [0.0, *x]) == [pytest.approx([0.5, silu[0] / 1, silu[1] / -2])]
    gate, value = slopes(lambda a, b: functional.silu(a) * b, x, [3.0, 5.0])
    assert gate == pytest.approx([silu[0] / 1 * 3 / 2, silu[1] / -2 * 5 / 2])
    assert value == pytest.approx([silu[0] / 2, silu[1] / 2])
    assert slopes(lambda a, b: a * b, x, [3.0, 5.0]) == [[3.0, 5.0], x]  # no gate
    assert slopes(lambda a: a.softmax(-1) * torch.tensor([1.0, 2.0]) + a, x) == [[1.0, 1.0]]
    rms = (2.5 + 1e-5) ** -0.5
    assert slopes(lambda a: functional.rms_norm(a, (2,), None, 1e-5), x) == [pytest.approx([rms, rms])]
    centred = functional.layer_norm
    assert slopes(lambda a: centred(a, (2,)) * torch.tensor([1.0, 0.0]), x) == [
        pytest.approx([0.5 / (2.25 + 1e-5) ** 0.5, -0.5 / (2.25 + 1e-5) ** 0.5])
    ]


def test_dropping_a_layer_stops_gradients_through_it(experiment):
    """Frozen at what it wrote in the unpatched run, a layer passes on nothing of a change below it."""
    batch = next(GradientRuns(experiment).batches())
    gradient_runs = GradientRuns(experiment)
    dropped = list(gradient_runs.gradients_without_layers(batch.recipient, batch.answers))
    n_layers = len(dropped)
    assert gradient_runs.cost * len(experiment) == (1 + n_layers) * len(batch.recipient)
    whole = gradient_runs.gradients(batch.recipient, batch.answers).gradient
    for layer, gradients in enumerate(dropped):
        assert not gradients[layer].any()
        for above in range(layer + 1, n_layers):
            torch.testing.assert_close(gradients[above], whole[above])
        if layer:
            assert not torch.allclose(gradients[0], whole[0])


def test_costs_are_forwards_and_backward_passes():
    experiment = experiment_on(tiny_model("pilot"), VOCAB)  # 3 layers of 2 heads
    costs = {name: method(experiment).cost for name, method in attribution_methods([4]).items()}
    assert costs == {
        "atp_recipient": 3, "atp_donor": 3, "atp_mean": 4, "atp_star": 7, "relp": 3, "ig_inputs_4": 10,
        "ig_activations_4": 2 + 2 * 4 * 3, "zero_ablation": 7, "mean_ablation": 7,
    }  # fmt: skip
    assert exact(experiment).cost == 8


def test_batches_of_any_size_give_the_same(monkeypatch):
    experiment = experiment_on(tiny_model("llama"), VOCAB)
    whole = {name: method(experiment) for name, method in attribution_methods([2]).items()}
    monkeypatch.setattr(runs, "MOST_POSITIONS", 1)
    for name, method in attribution_methods([2]).items():
        again = method(experiment)
        assert again.cost == whole[name].cost
        np.testing.assert_allclose(again.change, whole[name].change, atol=1e-4, rtol=1e-4)


def test_nothing_stays_in_the_model():
    model = tiny_model("pilot")
    experiment = experiment_on(model, VOCAB)
    before = [id(parameter) for parameter in model.parameters() if parameter.grad is None]
    for method in attribution_methods([1]).values():
        method(experiment)
    assert before == [id(parameter) for parameter in model.parameters() if parameter.grad is None]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_relevance_patching_has_no_rule_for_softcapped_logits():
    experiment = experiment_on(tiny_model("llama"), VOCAB)
    experiment.engine.model.config.final_logit_softcapping = 30.0
    with pytest.raises(PilotError, match="softcapped logits"):
        relevance_patching(experiment)


def test_a_model_without_what_a_method_needs_is_refused():
    with pytest.raises(PilotError, match="has no token embedding"):
        token_embedding(nn.Linear(2, 2))


def test_models_of_half_precision_give_numbers_too():
    precise = attribution_patching(experiment_on(tiny_model("pilot"), VOCAB), "recipient").change
    rough = attribution_patching(experiment_on(tiny_model("pilot").bfloat16(), VOCAB), "recipient").change
    assert np.corrcoef(rough.ravel(), precise.ravel())[0, 1] > 0.95
