"""Name groups of texts by the words that are typical of each, beside all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import log
from typing import Final

from app.intent.rule_words import WordCutter
from app.intent.rules import searchable
from app.intent.text import MaskedText

MOST_WORDS: Final = 8

_LEAST_TEXTS: Final = 3
_LEAST_SHARE: Final = 0.1
"""A word of one or two texts may be somebody's own, and names no group."""

_LEAST_LIFT: Final = 3.0
"""A word of a group stands in so many times the share of its texts that it has of all: "what" names nothing."""

# So many digits in a row may be somebody's number.
_LEAST_NUMBER: Final = 5


def class_words(groups: Sequence[Sequence[MaskedText]], *, user_words: Iterable[str] = ()) -> list[list[str]]:
    """Up to eight words of each group, the most typical first.

    Class-based TF-IDF (Grootendorst 2022): the share of the group's texts that hold the word, times
    log(1 + words of a group on average / occurrences of the word in all groups). Give labels and noise as groups of
    their own: words that are everywhere then weigh little. Of words inside each other the more typical one stays.

    Args:
        groups: texts, masked; marks of masking are no words.
        user_words: what the cutter must know as words.
    """
    cutter = WordCutter(user_words)
    held = [Counter(word for text in group for word in set(cutter.words(searchable(text)))) for group in groups]
    everywhere = Counter[str]()
    for words in held:
        everywhere.update(words)
    average = sum(everywhere.values()) / max(1, len(groups))
    n_texts = sum(len(group) for group in groups)
    found = []
    for words, group in zip(held, groups, strict=True):
        least = max(_LEAST_TEXTS, _LEAST_SHARE * len(group))
        weights = {
            word: count / len(group) * log(1.0 + average / everywhere[word])
            for word, count in words.items()
            if count >= least and _names(word) and count * n_texts >= _LEAST_LIFT * everywhere[word] * len(group)
        }
        found.append(_best(weights))
    return found


def _names(word: str) -> bool:
    return len(word) > 1 and not (word.isdigit() and len(word) >= _LEAST_NUMBER)


def _best(weights: dict[str, float]) -> list[str]:
    chosen: list[str] = []
    for word in sorted(weights, key=lambda word: (-weights[word], -len(word), word)):
        if not any(word in other or other in word for other in chosen):
            chosen.append(word)
        if len(chosen) == MOST_WORDS:
            break
    return chosen
