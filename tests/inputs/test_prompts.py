import torch

from pilot.inputs.prompts import Prompt, batches_by_length, gives_answer, make_batch

SHORT, LONG = Prompt((1, 2), (7, 9)), Prompt((1, 2, 3), (8, 8, 9))


def test_runs_are_batched_by_length_in_the_order_given():
    short, long = batches_by_length([LONG, SHORT, LONG._replace(ids=(4, 5, 6)), SHORT])
    assert (short.index.tolist(), long.index.tolist()) == ([1, 3], [0, 2])
    assert short.inputs.tolist() == [[1, 2, 7]] * 2
    assert short.targets.tolist() == [[2, 7, 9]] * 2
    assert short.answer.tolist() == [[False, True, True]] * 2
    assert long.inputs.tolist() == [[1, 2, 3, 8, 8], [4, 5, 6, 8, 8]]
    assert (SHORT.seq_len, LONG.seq_len) == (3, 5)


def test_a_prompt_can_be_followed_by_anothers_answer():
    (batch,) = batches_by_length([SHORT], [LONG.answer])
    assert batch.inputs.tolist() == [[1, 2, 8, 8]]
    assert batch.targets[batch.answer].tolist() == [8, 8, 9]
    assert batch.answer_positions.tolist() == [[1, 2, 3]]


def test_prompts_of_two_lengths_share_a_batch_where_their_runs_are_as_long():
    (batch,) = batches_by_length([Prompt((1, 2), (3, 4, 5)), Prompt((1, 2, 3), (4, 5))])
    assert batch.answer.tolist() == [[False, True, True, True], [False, False, True, True]]
    assert batch.answer_positions.tolist() == [[1, 2, 3]] * 2
    targets, answer = batch.answers_at(batch.answer_positions)
    assert targets.tolist() == [[3, 4, 5], [3, 4, 5]]
    assert answer.tolist() == [[True, True, True], [False, True, True]]


def test_a_run_cut_short_keeps_its_beginning():
    batch = make_batch([LONG, SHORT], [1, 0], 2)
    assert batch.inputs.tolist() == [[1, 2], [1, 2]]
    assert batch.targets.tolist() == [[2, 7], [2, 3]]
    assert batch.answer.tolist() == [[False, True], [False, False]]


def test_an_answer_is_given_if_all_of_its_tokens_are():
    targets, answer = torch.tensor([[1, 2, 3]] * 3), torch.tensor([[False, True, True]] * 3)
    predicted = torch.tensor([[9, 2, 3], [1, 9, 3], [1, 2, 9]])
    assert gives_answer(predicted, targets, answer).tolist() == [True, False, False]
