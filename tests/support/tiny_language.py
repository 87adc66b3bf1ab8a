"""A tiny language model in a folder: a Llama and a tokenizer that know one template, with four names."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pilot.inputs.pairs import SPLITS
from pilot.language.pairs import TextPair

NAMES = ("Mary", "John", "Anna", "Tom")
PROMPT = "When {} and {} went to the store, {} gave a drink to"


def word_tokenizer(words: list[str], bos: bool = False) -> PreTrainedTokenizerFast:
    """Every word is a token, with the space before it; others are unknown. With `bos`, texts begin with a marker."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", "<s>", *words])}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]"), "isolated")
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def tiny_llama(vocab_size: int, seed: int = 0) -> LlamaForCausalLM:
    """Two layers of four heads, with weights large enough for every head to matter."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def save_language_model(folder: Path) -> None:
    """A folder with a model that has learned to name who was given the drink, and its tokenizer."""
    words = ["When", *(f" {name}" for name in NAMES), " and", " went", " to", " the", " store", ",", " gave", " a"]
    tokenizer = word_tokenizer([*words, " drink"])
    texts = [
        PROMPT.format(a, b, giver) + f" {taker}" for a, b in permutations(NAMES, 2) for giver, taker in ((a, b), (b, a))
    ]
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    model = tiny_llama(len(tokenizer)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = F.cross_entropy(model(ids[:, :-1]).logits[:, -1], ids[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1, "the tiny model has not learned its texts"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_pairs() -> list[TextPair]:
    """Who was given the drink, of every two names in either order: half of the pairs to choose heads on."""
    return [
        TextPair(
            clean=PROMPT.format(a, b, b),
            corrupt=PROMPT.format(a, b, a),
            clean_answer=f" {a}",
            corrupt_answer=f" {b}",
            edit="giver",
            split=SPLITS[i % 2],
        )
        for i, (a, b) in enumerate(permutations(NAMES, 2))
    ]
