import torch

from pilot.arithmetic.examples import Example, buckets_by_length
from pilot.arithmetic.scoring import score, score_model
from pilot.arithmetic.vocabulary import END, VOCAB_SIZE


def test_scores_by_hand():
    (bucket,) = buckets_by_length([Example("3*8", "24")] * 5)
    predicted = bucket.targets.clone()
    predicted[:, :3] = 7  # what is predicted before the answer does not count
    predicted[1, -3] = 9  # 94: only the first digit is wrong
    predicted[2, -2] = 9  # 29: only the last
    predicted[3, -1] = 9  # 249: the answer goes on
    predicted[4, -3:] = END
    scores = score(predicted, bucket.targets, bucket.answer)
    assert scores.exact_match.tolist() == [True, False, False, False, False]
    assert scores.last_digit.tolist() == [True, True, False, True, False]
    assert scores.final_token.tolist() == [True, True, True, False, True]


class _Copycat(torch.nn.Module):
    """Predicts that the last token comes again."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids):
        return torch.nn.functional.one_hot(ids, VOCAB_SIZE).float()


def test_examples_keep_their_order_whatever_their_length():
    examples = [Example("1+1", "2"), Example("(1+1)*9", "18"), Example("4*8", "32"), Example("1-1", "0")]
    scores = score_model(_Copycat(), buckets_by_length(examples), batch_size=2)
    assert scores.exact_match.tolist() == [False] * 4
    assert scores.last_digit.tolist() == [False, False, False, False]
    assert scores.final_token.tolist() == [False] * 4
    scores = score_model(
        _Copycat(), buckets_by_length([Example("4+7", "11"), Example("2+2", "4"), Example("9*0", "0")])
    )
    assert scores.last_digit.tolist() == [True, False, False]


def test_exact_match_is_what_greedy_decoding_gives(trained):
    from pilot.arithmetic.examples import read_examples
    from pilot.arithmetic.vocabulary import decode, encode
    from pilot.models.checkpoint import load_model

    model = load_model(trained.checkpoint)
    examples = read_examples(trained.data / "pilot_test_paren.jsonl")
    exact = score_model(model, buckets_by_length(examples)).exact_match
    assert 0 < exact.sum() < len(exact)
    for example, right in zip(examples, exact.tolist(), strict=True):
        ids = encode(example.expression + "=")
        prompt = len(ids)
        while len(ids) < model.config.context:
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] == END:
                break
        assert (ids[-1] == END and decode(ids[prompt:]) == example.result) == right
