"""Cut a text into the countable features of the `ngram` recipe: characters, their sequences, words, word classes.

The trainer and the scorer share this code, so that a text has the same features on the day it is asked as on the
day it was learned. What comes out depends on the text, the settings and jieba's dictionary alone.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import inf, log
from typing import Final

import jieba

BLOCKS: Final = ("characters", "sequences", "words", "classes")

_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_CHARACTER: Final = re.compile(f"[{_HAN}]")
# A run of Han characters, a run of other letters and digits, or one mark.
_RUN: Final = re.compile(rf"([{_HAN}]+)|[^\W{_HAN}]+|[^\w\s]")
_START: Final = "\x02"
_END: Final = "\x03"


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """Which features are counted.

    Args:
        sequence_length: longest sequence of characters over the whole text, start and end marked; 2 to 4.
        word_part_length: longest sequence of characters inside the words of a text without Han, edges marked; up to 6.
        word_pairs: count neighbouring words where neither is Han; two Han words in a row are seen by the sequences.
        dictionary: cut Han with jieba's dictionary and count word classes. Without it a run of Han is one word.
    """

    sequence_length: int = 2
    word_part_length: int = 4
    word_pairs: bool = True
    dictionary: bool = True


def has_han(text: str) -> bool:
    """True when at least one Chinese character is in the text."""
    return _HAN_CHARACTER.search(text) is not None


class Featuriser:
    """Lists the features of texts.

    The first one with a dictionary loads it for the whole process: about a second and 90 MB.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self._settings = settings
        self._dictionary = load_dictionary() if settings.dictionary else None

    def blocks(self, text: str) -> tuple[list[str], list[str], list[str], list[str]]:
        """The features of each block of `BLOCKS`, each as often as it occurs.

        characters: each character of a text with Han; letters say little alone.
        sequences: characters in a row over the whole text and, without Han, longer ones inside words.
        words: words and marks, and pairs of words that are not Han.
        classes: the class of each word, alone and with the next one, of a text with Han.
        """
        folded = text.casefold()
        words, plain = self._words(folded)
        pairs: list[str] = []
        if self._settings.word_pairs:
            pairs = [f"{a} {b}" for a, b in pairwise(words) if a in plain and b in plain]
        if has_han(folded):
            return list(folded), self._sequences(folded), words + pairs, self._classes(words)
        return [], self._sequences(folded) + self._word_parts(words), words + pairs, []

    def _words(self, folded: str) -> tuple[list[str], set[str]]:
        """All words in order, and which of them are not Han."""
        words: list[str] = []
        plain: set[str] = set()
        for run in _RUN.finditer(folded):
            if run[1] is not None and self._dictionary is not None:
                words += self._dictionary.cut(run[1])
                continue
            words.append(run[0])
            if run[1] is None:
                plain.add(run[0])
        return words, plain

    def _sequences(self, folded: str) -> list[str]:
        marked = f"{_START}{folded}{_END}"
        sequences = [a + b for a, b in pairwise(marked)]
        for n in range(3, self._settings.sequence_length + 1):
            sequences += [marked[i : i + n] for i in range(len(marked) - n + 1)]
        return sequences

    def _word_parts(self, words: list[str]) -> list[str]:
        parts: list[str] = []
        for word in words:
            edged = f" {word} "
            for n in range(self._settings.sequence_length + 1, self._settings.word_part_length + 1):
                parts += [edged[i : i + n] for i in range(len(edged) - n + 1)]
        return parts

    def _classes(self, words: list[str]) -> list[str]:
        if self._dictionary is None:
            return []
        known = self._dictionary.classes
        classes = [known.get(word) or _class_by_shape(word) for word in words]
        return classes + [f"{a} {b}" for a, b in pairwise([_START, *classes, _END])]


@dataclass(frozen=True, slots=True)
class _Dictionary:
    """jieba's dictionary: how likely each word is, and its class (`nr` a person, `ns` a place, …).

    Args:
        log_probabilities: of each word; minus infinity for a string that only begins words.
        unknown: what a character that is not in the dictionary counts as.
    """

    log_probabilities: Mapping[str, float]
    classes: Mapping[str, str]
    unknown: float

    def cut(self, run: str) -> list[str]:
        """The most likely words, as `jieba.cut(run, HMM=False)` gives them in twice the time; of equals the longer."""
        known = self.log_probabilities
        length = len(run)
        best = [0.0] * (length + 1)
        ends = [0] * length
        for start in range(length - 1, -1, -1):
            top, top_end = -inf, start + 1
            end = start + 1
            while (own := known.get(run[start:end])) is not None:
                if own + best[end] >= top and own > -inf:
                    top, top_end = own + best[end], end
                if end == length:
                    break
                end += 1
            best[start], ends[start] = (top if top > -inf else self.unknown + best[start + 1]), top_end
        words = []
        start = 0
        while start < length:
            words.append(run[start : ends[start]])
            start = ends[start]
        return words


def _class_by_shape(word: str) -> str:
    if has_han(word):
        return f"?{min(len(word), 4)}"
    if word.isdigit():
        return "m"
    return "eng" if word[0].isalnum() else "x"


def load_dictionary() -> _Dictionary:
    """The dictionary, once for the process: half a second and 90 MB the first time, at once from then on."""
    # Two that ask at once would both read it.
    with _loading:
        return _load_dictionary()


_loading = threading.Lock()


@cache
def _load_dictionary() -> _Dictionary:
    """Read the dictionary that jieba carries.

    The danger: jieba keeps its parsed dictionary in the shared temporary folder and trusts what it finds there, which
    another user of the machine could have written. The cost of the guard: a third of a second more at the start.
    The choice: parse the package's own file, and take the word classes from the same pass.
    """
    frequencies: dict[str, int] = {}
    classes: dict[str, str] = {}
    shared: dict[str, str] = {}
    with jieba.Tokenizer().get_dict_file() as lines:
        for line in lines:
            word, count, word_class = line.decode("utf-8").split()
            frequencies[word] = int(count)
            classes[word] = shared.setdefault(word_class, word_class)
    log_total = log(sum(frequencies.values()))
    # Half of the words share one of a few counts: one number for each count saves 10 MB.
    of_count = {count: log(count) - log_total if count else -inf for count in set(frequencies.values())}
    log_probabilities = {word: of_count[count] for word, count in frequencies.items()}
    for word in frequencies:
        # The cutter goes on as long as what it has read begins a word.
        for end in range(1, len(word)):
            log_probabilities.setdefault(word[:end], -inf)
    return _Dictionary(log_probabilities, classes, unknown=-log_total)
