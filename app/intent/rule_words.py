"""Cut texts into the words that rules may be made of, the same in every process."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Any, Final

import jieba

from app.intent.text import MaskedText, text_key

MAX_WORD_CHARACTERS: Final = 32
"""Longer runs are addresses of pages and codes: they name one text and no intent."""

_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_RUN: Final = re.compile(f"[{_HAN}]+")
# A run of Han characters, or of other letters and digits. No marks.
_RUN: Final = re.compile(rf"([{_HAN}]+)|[^\W{_HAN}]+")


class WordCutter:
    """Cuts texts in jieba's search mode: long words, and the known words of two and three characters inside them.

    Args:
        user_words: what must be seen as a word: parts of label names, words of rules, a domain's dictionary. Folded as
            texts are; their order makes no difference.
    """

    def __init__(self, user_words: Iterable[str] = ()) -> None:
        folded = {text_key(MaskedText(word)).strip() for word in user_words}
        self.user_words = tuple(sorted(word for word in folded if 0 < len(word) <= MAX_WORD_CHARACTERS))
        self._tokenizer: Any = None

    def words(self, folded: str) -> list[str]:
        """The distinct words of a `searchable` text: those of each stretch, and the known ones inside."""
        found: dict[str, None] = {}
        for start, end in self._stretches(folded):
            word = folded[start:end]
            found.update(dict.fromkeys(self._inner_words(word)))
            found[word] = None
        return [word for word in found if len(word) <= MAX_WORD_CHARACTERS]

    def phrases(self, folded: str) -> list[str]:
        """Each two words that follow each other with nothing or one space between, as they stand in the text."""
        found: dict[str, None] = {}
        for (start, end), (next_start, next_end) in pairwise(self._stretches(folded)):
            if folded[end:next_start] in ("", " ") and next_end - start <= MAX_WORD_CHARACTERS:
                found[folded[start:next_end]] = None
        return list(found)

    def _stretches(self, folded: str) -> list[tuple[int, int]]:
        """Where the words of a text start and end, long ones whole."""
        stretches = []
        for run in _RUN.finditer(folded):
            if run[1] is None or len(run[1]) == 1:
                stretches.append(run.span())
                continue
            start = run.start()
            for word in self._cut(run[1]):
                stretches.append((start, start + len(word)))
                start += len(word)
        return stretches

    def _cut(self, run: str) -> list[str]:
        words: list[str] = self._with_dictionary().lcut(run)
        return words

    def _inner_words(self, word: str) -> list[str]:
        """What jieba's `cut_for_search` adds to a long word."""
        if len(word) < 3 or not _HAN_RUN.fullmatch(word):
            return []
        known = self._with_dictionary().FREQ
        lengths = (2, 3) if len(word) > 3 else (2,)
        parts = [word[start : start + n] for n in lengths for start in range(len(word) - n + 1)]
        return [part for part in parts if known.get(part)]

    def _with_dictionary(self) -> Any:
        if self._tokenizer is None:
            # A language without Chinese characters has no use for a second and 80 MB of dictionary.
            self._tokenizer = _tokenizer_with(self.user_words)
        return self._tokenizer


def _tokenizer_with(user_words: Iterable[str]) -> Any:
    """The base tokenizer, or a copy of it that knows more words."""
    with _loading:
        base = _base_tokenizer()
    han = [word for word in user_words if len(word) > 1 and _HAN_RUN.fullmatch(word)]
    if not han:
        return base
    tokenizer = _ready(dict(base.FREQ), base.total)
    for word in han:
        tokenizer.add_word(word)
    return tokenizer


_loading = threading.Lock()


@cache
def _base_tokenizer() -> Any:
    """jieba's own dictionary, once for the process.

    The danger: by itself jieba keeps its parsed dictionary in the shared temporary folder and trusts what it finds
    there, which another user of the machine could have written. The cost of the guard: half a second. The choice: parse
    the package's own file and call the tokenizer ready, so that it never looks for a cache.
    """
    frequencies, total = jieba.Tokenizer.gen_pfdict(jieba.Tokenizer().get_dict_file())
    return _ready(frequencies, total)


def _ready(frequencies: dict[str, int], total: int) -> Any:
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total, tokenizer.initialized = frequencies, total, True
    return tokenizer
