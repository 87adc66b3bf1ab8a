import numpy as np
import pytest
import torch

from pilot.arithmetic.pairs import read_pairs
from pilot.arithmetic.prompts import token_pairs
from pilot.errors import PilotError
from pilot.experiments.effects import PairExperiment
from pilot.inputs.pairs import DIRECTIONS, TokenPair
from pilot.inputs.prompts import Prompt
from pilot.interventions import HeadPatch, at_positions, single_heads
from pilot.models import hooks
from pilot.models.checkpoint import load_model
from pilot.sweep import SweepEngine


@pytest.fixture(scope="module")
def engine(trained):
    return SweepEngine(load_model(trained.checkpoint))


@pytest.fixture(scope="module")
def pairs(trained):
    return token_pairs(pair for pair in read_pairs(trained.data / "pilot_pairs.jsonl") if pair.edit == "regroup")


def answered(model, ids, answer, intervention=(), source=None):
    """Logits at the positions that predict every token of `answer`, from a whole forward: (R, V)."""
    with hooks.replaced(model, intervention, source), torch.no_grad():
        return model(torch.tensor([[*ids, *answer[:-1]]]))[0, -len(answer) :]


def outputs(model, ids, answer):
    with torch.no_grad():
        return hooks.head_outputs(model, torch.tensor([[*ids, *answer[:-1]]]))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_measures_are_those_of_whole_runs(engine, pairs, direction):
    model = engine.model
    interventions = [*single_heads(model.config)[:4], (HeadPatch(0, 1, 2, 5), HeadPatch(2, 0))]
    experiment = PairExperiment(engine, pairs, direction)
    effects = experiment.effects(interventions)
    for p, pair in enumerate(pairs):
        recipient, donor = (pair.corrupt, pair.clean) if direction == "denoising" else (pair.clean, pair.corrupt)
        part = next(i for i, (a, b) in enumerate(zip(recipient.answer, donor.answer, strict=False)) if a != b)
        below, above = recipient.answer[part], donor.answer[part]
        source = outputs(model, donor.ids, donor.answer)
        source_own = outputs(model, donor.ids, recipient.answer)
        of_donor = answered(model, donor.ids, donor.answer)
        assert experiment.ld_donor[p] == pytest.approx(float(of_donor[part, above] - of_donor[part, below]), abs=1e-4)
        unpatched = answered(model, recipient.ids, donor.answer)[part]
        assert experiment.ld_recipient[p] == pytest.approx(float(unpatched[above] - unpatched[below]), abs=1e-4)
        own = answered(model, recipient.ids, recipient.answer).argmax(-1).tolist() == list(recipient.answer)
        assert experiment.both_right[p] == (own and of_donor.argmax(-1).tolist() == list(donor.answer))
        for i, intervention in enumerate(interventions):
            logits = answered(model, recipient.ids, donor.answer, intervention, source)
            ld = float(logits[part, above] - logits[part, below])
            assert effects.change[i, p] + experiment.ld_recipient[p] == pytest.approx(ld, abs=1e-4)
            assert effects.adopted[i, p] == (logits.argmax(-1).tolist() == list(donor.answer))
            kl = torch.nn.functional.kl_div(
                logits[part].log_softmax(-1), of_donor[part].log_softmax(-1), log_target=True, reduction="sum"
            )
            assert effects.kl[i, p] == pytest.approx(float(kl), abs=1e-4)
            kept = answered(model, recipient.ids, recipient.answer, intervention, source_own)
            assert effects.kept[i, p] == (kept.argmax(-1).tolist() == list(recipient.answer))
    assert effects.adopted.any()
    assert effects.kept.any()
    assert not effects.kept.all()


def test_all_heads_make_the_donors_run_and_own_outputs_nothing(engine, pairs):
    everything = tuple(patch for (patch,) in single_heads(engine.model.config))
    experiment = PairExperiment(engine, pairs, "denoising")
    effects = experiment.effects([everything])
    np.testing.assert_allclose(effects.change[0], experiment.gap, atol=1e-4)
    np.testing.assert_allclose(effects.kl, 0, atol=1e-5)
    np.testing.assert_allclose(experiment.changes([everything], experiment.self_donor), 0, atol=1e-4)


def test_a_fault_in_the_engine_would_show_in_the_own_outputs_control(engine, pairs):
    experiment = PairExperiment(engine, pairs, "denoising")

    def damaged(batch):
        return [z + 0.5 for z in experiment.self_donor(batch)]

    everything = tuple(patch for (patch,) in single_heads(engine.model.config))
    assert np.abs(experiment.changes([everything], damaged)).max() > 0.1


def test_changes_alone_are_those_of_all_measures_and_recovery_their_ratio(engine, pairs):
    interventions = [at_positions(head, 3, None) for head in single_heads(engine.model.config)]
    experiment = PairExperiment(engine, pairs, "noising")
    changes = experiment.changes(interventions)
    np.testing.assert_allclose(changes, experiment.effects(interventions).change, atol=1e-4)
    np.testing.assert_allclose(experiment.recovery(interventions), changes.sum(1) / experiment.gap.sum(), rtol=1e-5)


def test_the_gap_is_the_same_in_both_directions(engine, pairs):
    denoising, noising = (PairExperiment(engine, pairs, direction).gap for direction in DIRECTIONS)
    np.testing.assert_allclose(denoising, noising, atol=1e-4)


def test_unpatched_runs_are_measured_once(engine, pairs, monkeypatch):
    unpatched_runs = []

    def run(recipient, donor, interventions, **options):
        if interventions == [()]:
            unpatched_runs.append(len(recipient))
        return SweepEngine.run(engine, recipient, donor, interventions, **options)

    monkeypatch.setattr(engine, "run", run)
    experiment = PairExperiment(engine, pairs, "denoising")
    heads = single_heads(engine.model.config)
    assert experiment.gap.shape == experiment.both_right.shape == (len(pairs),)
    measured = len(unpatched_runs)
    experiment.effects(heads[:2])
    experiment.changes(heads[:2])
    part = experiment.take(np.array([3, 1]))
    assert part.gap.tolist() == experiment.gap[[3, 1]].tolist()
    np.testing.assert_allclose(part.changes(heads), experiment.changes(heads)[:, [3, 1]], atol=1e-5)
    np.testing.assert_allclose(part.effects(heads).kl, experiment.effects(heads).kl[:, [3, 1]], atol=1e-5)
    assert len(unpatched_runs) == measured
    assert sum(unpatched_runs) == 4 * len(pairs)  # of either side: the logit difference, and its own answer


def wrong_runs(engine, pairs, direction="denoising"):
    """For each pair with a wrong donor, that donor's run as (prompt and answer)."""
    experiment = PairExperiment(engine, pairs, direction)
    index, donor = experiment.wrong_donor()
    part = experiment.take(index) if len(index) else experiment
    runs = {}
    for batch in part._batches("donor") if len(index) else ():
        runs |= dict(zip(index[batch.index].tolist(), donor(batch).tolist(), strict=True))
    return runs


def numbered_pair(number, clean_answer, corrupt_answer=(0, 9), length=3, bucket=None):
    clean, corrupt = ((number, side, *[5] * (length - 2)) for side in (1, 2))
    return TokenPair(Prompt(clean, clean_answer), Prompt(corrupt, corrupt_answer), bucket=bucket)


def test_a_wrong_donor_is_the_next_pairs_prompt_with_this_pairs_answer(small_engine):
    pairs = [numbered_pair(n, (n + 1, 7, n + 3, 9)) for n in range(3)]
    # Clean prompts are the donors. Each is the next pair's, the last pair's the first's; the forced answer is its own.
    assert wrong_runs(small_engine, pairs) == {
        0: [1, 1, 5, 1, 7, 3],
        1: [2, 1, 5, 2, 7, 4],
        2: [0, 1, 5, 3, 7, 5],
    }


def test_a_wrong_donor_has_another_answer_where_this_pairs_part(small_engine):
    pairs = [numbered_pair(n, answer) for n, answer in enumerate([(4, 9), (4, 8, 9), (6, 9)])]
    assert {number: run[0] for number, run in wrong_runs(small_engine, pairs).items()} == {0: 2, 1: 2, 2: 0}


def test_wrong_donors_share_bucket_and_length_and_pairs_without_one_are_left_out(small_engine):
    pairs = [
        numbered_pair(0, (1, 9), bucket="a"),
        numbered_pair(1, (2, 9), bucket="b"),
        numbered_pair(2, (3, 9), bucket="a"),
        numbered_pair(3, (4, 9), bucket="a", length=4),
        numbered_pair(4, (5, 9), bucket="b"),
        numbered_pair(5, (5, 9), length=5),
        numbered_pair(6, (5, 9), length=5),  # the same answer: it carries this pair's news
    ]
    assert {number: run[0] for number, run in wrong_runs(small_engine, pairs).items()} == {0: 2, 2: 0, 1: 4, 4: 1}
    assert wrong_runs(small_engine, pairs[:1]) == {}


@pytest.fixture
def small_engine(small_model):
    return SweepEngine(small_model)


def test_an_experiment_without_pairs_is_refused(small_engine):
    with pytest.raises(PilotError, match="an experiment needs pairs, and there are none"):
        PairExperiment(small_engine, [], "denoising")


def test_a_diverged_model_is_refused(small_model):
    small_model.ln_final.weight.data[0] = torch.nan
    with pytest.raises(PilotError, match="not finite"):
        _ = PairExperiment(SweepEngine(small_model), [numbered_pair(n, (n, 9)) for n in (1, 2)], "noising").gap


def test_logits_that_a_patch_makes_infinite_are_refused_with_the_pair(small_engine):
    experiment = PairExperiment(small_engine, [numbered_pair(n, (n, 9)) for n in (1, 2)], "denoising")

    def damaged(batch):
        z = experiment.self_donor(batch)
        z[0][1] = torch.nan
        return z

    with pytest.raises(PilotError, match="the logits of pair 1 are not finite numbers: the model has diverged"):
        experiment.changes([(HeadPatch(0, 0),)], damaged)
