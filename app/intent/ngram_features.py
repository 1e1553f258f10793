"""Cut a text into the countable features of the `ngram` recipe: characters, words, and what kind of word each one is.

The trainer and the scorer share this code, so that a text has the same features on the day it is asked as on the day it
was learned. The features of a text depend on the text and the settings alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import jieba

BLOCKS: Final = ("characters", "words", "tags")

_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_CHARACTER: Final = re.compile(f"[{_HAN}]")
# A run of Han characters, a run of other letters and digits, or one mark.
_RUN: Final = re.compile(rf"([{_HAN}]+)|([^\W{_HAN}]+)|[^\w\s]")
_START, _END = "\x02", "\x03"


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """Which n-grams are counted.

    Args:
        character_ngrams: longest n-gram over the whole text, its start and end marked; 0 to 4.
        word_character_ngrams: longest n-gram inside words that are not Han, their edges marked; 0 to 6.
        word_ngrams: 1 counts words; 2 also counts neighbours where neither is Han, because two Han words in a row
            are already what the characters see.
        dictionary: cut Han with jieba's dictionary and count its word classes. Without it a run of Han is one word.
    """

    character_ngrams: int = 2
    word_character_ngrams: int = 4
    word_ngrams: int = 2
    dictionary: bool = True


def has_han(text: str) -> bool:
    """True when at least one Chinese character is in the text."""
    return _HAN_CHARACTER.search(text) is not None


class Featuriser:
    """Lists the features of texts. Loads jieba's dictionary (about a second, once a process) only if the settings ask."""

    def __init__(self, settings: FeatureSettings) -> None:
        self._settings = settings
        self._cut, self._kinds = _dictionary() if settings.dictionary else (None, {})

    def blocks(self, text: str) -> tuple[list[str], list[str], list[str]]:
        """The features of each block of `BLOCKS`, in the order of the text, repeated as often as they occur."""
        folded = text.casefold()
        words: list[tuple[str, bool]] = []
        for run in _RUN.finditer(folded):
            if run[1] is not None and self._cut is not None:
                words += [(word, True) for word in self._cut.cut(run[1], HMM=False)]
            else:
                words.append((run[0], run[1] is not None))
        return self._characters(folded, words), self._words(words), self._tags(words)

    def _characters(self, folded: str, words: Sequence[tuple[str, bool]]) -> list[str]:
        longest, inside = self._settings.character_ngrams, self._settings.word_character_ngrams
        grams = list(folded) if longest else []
        if longest > 1:
            marked = f"{_START}{folded}{_END}"
            for n in range(2, longest + 1):
                grams += [marked[i : i + n] for i in range(len(marked) - n + 1)]
        for word, is_han in words:
            if not is_han:
                edged = f" {word} "
                for n in range(max(3, longest + 1), inside + 1):
                    grams += [edged[i : i + n] for i in range(len(edged) - n + 1)]
        return grams

    def _words(self, words: Sequence[tuple[str, bool]]) -> list[str]:
        features = [word for word, _ in words]
        if self._settings.word_ngrams > 1:
            features += [f"{a} {b}" for (a, a_han), (b, b_han) in pairwise(words) if not (a_han or b_han)]
        return features

    def _tags(self, words: Sequence[tuple[str, bool]]) -> list[str]:
        if self._cut is None or not any(is_han for _, is_han in words):
            return []
        return [self._kinds.get(word) or _kind_by_shape(word, is_han) for word, is_han in words]


def _kind_by_shape(word: str, is_han: bool) -> str:
    if is_han:
        return f"?{min(len(word), 4)}"
    if word.isdigit():
        return "m"
    return "eng" if word[0].isalnum() else "x"


@cache
def _dictionary() -> tuple[jieba.Tokenizer, Mapping[str, str]]:
    """jieba's own dictionary as a tokenizer, and the word class of each entry (`nr` a person, `ns` a place, …).

    The danger: jieba keeps its parsed dictionary in the shared temporary folder and trusts what it finds there, which
    another user of the machine could have written. The choice: parse the package's file, half a second more at start.
    """
    tokenizer = jieba.Tokenizer()
    kinds: dict[str, str] = {}
    frequencies: dict[str, int] = {}
    known_kinds: dict[str, str] = {}
    with tokenizer.get_dict_file() as lines:
        for line in lines:
            word, count, kind = line.decode("utf-8").split()
            frequencies[word] = int(count)
            kinds[word] = known_kinds.setdefault(kind, kind)
    tokenizer.total = sum(frequencies.values())
    for word in kinds:
        for end in range(1, len(word)):
            frequencies.setdefault(word[:end], 0)
    tokenizer.FREQ, tokenizer.initialized = frequencies, True
    return tokenizer, kinds
