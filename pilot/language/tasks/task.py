"""What a task is: templates and words for each split, and how a pair is drawn from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from pilot.errors import PilotError
from pilot.inputs.pairs import SPLITS
from pilot.language.pairs import TextPair, tokenised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Words = Mapping[str, Sequence[str]]  # by kind

FEWEST_WORDS = 4  # of a kind
MISSES = 1000  # draws without a new pair, after which there are no more


class Filling(NamedTuple):
    """What fills the slots of a template in the clean and in the corrupt prompt, and the answers, spaces included."""

    clean: Mapping[str, str]
    corrupt: Mapping[str, str]
    clean_answer: str
    corrupt_answer: str


@dataclass(frozen=True)
class Material:
    """What the pairs of one split are made of. The other split has other templates and other words.

    templates   by name; slots are filled by `str.format`
    words       by kind, a space between them, a slash between the forms of one: "key/keys box/boxes"
    """

    templates: Mapping[str, str]
    words: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """A behaviour to find the heads of.

    description   what the clean and the corrupt prompt are, in a line
    source        the paper that it is from
    edit          what tells the two prompts of a pair apart
    fill          draws what fills a template, from the words that the tokenizer knows
    """

    name: str
    description: str
    source: str
    edit: str
    select: Material
    confirm: Material
    fill: Callable[[Words, Random], Filling]

    def pairs(self, n_per_split: int, seed: int, tokenizer: PreTrainedTokenizerBase) -> list[TextPair]:
        """Distinct pairs, `n_per_split` of either split, with as many of each template.

        Every word is one token of the tokenizer, so pairs of one template align position by position. Fewer pairs of
        the same seed are the first of each split. Raises PilotError where the tokenizer leaves too few words or pairs.
        """
        return [pair for split in SPLITS for pair in self._split(split, n_per_split, seed, tokenizer)]

    def _split(self, split: str, n: int, seed: int, tokenizer: PreTrainedTokenizerBase) -> list[TextPair]:
        material: Material = getattr(self, split)
        words = {kind: self._known(kind, listed.split(), split, tokenizer) for kind, listed in material.words.items()}
        templates = list(material.templates.items())
        rng = Random(f"{self.name} {split} {seed}")
        pairs: dict[frozenset[str], TextPair] = {}  # by their two prompts
        left_out: Counter[str] = Counter()
        misses = 0
        while len(pairs) < n and misses < MISSES:
            template, text = templates[len(pairs) % len(templates)]
            clean, corrupt, clean_answer, corrupt_answer = self.fill(words, rng)
            pair = TextPair(
                clean=text.format_map(clean),
                corrupt=text.format_map(corrupt),
                clean_answer=clean_answer,
                corrupt_answer=corrupt_answer,
                edit=self.edit,
                split=split,
                template=template,
            )
            reasons = tokenised([pair], tokenizer, context=None).left_out
            left_out += reasons
            prompts = frozenset((pair.clean, pair.corrupt))
            if reasons or prompts in pairs:
                misses += 1
            else:
                pairs[prompts], misses = pair, 0
        if len(pairs) < n:
            why = "".join(f" ({reason})" for reason, _ in left_out.most_common(1))
            raise PilotError(
                f"{self.name}: the tokenizer allows {len(pairs)} distinct pairs of the {split} split, not {n}{why}: "
                "ask for fewer, or take another task or a file of your own pairs"
            )
        return list(pairs.values())

    def _known(
        self, kind: str, listed: Sequence[str], split: str, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[str, ...]:
        """The words whose forms are one token each. Raises PilotError if they are too few."""
        known = tuple(word for word in listed if word.isdigit() or _is_one_token(word, tokenizer))
        if len(known) < FEWEST_WORDS:
            raise PilotError(
                f"{self.name}: {len(known)} of the {len(listed)} {kind} of the {split} split are one token of this "
                f"tokenizer, and the task needs {FEWEST_WORDS}: take another task or a file of your own pairs"
            )
        return known


def _is_one_token(word: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether each form of the word, after another word, is a token of its own."""
    before = tuple(tokenizer("the", verbose=False)["input_ids"])
    for form in word.split("/"):
        *start, last = tokenizer(f"the {form}", verbose=False)["input_ids"]
        if tuple(start) != before or last == tokenizer.unk_token_id:
            return False
    return True
