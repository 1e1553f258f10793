"""Keyword rules as values: what one matches, which label it speaks for, and how large it may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.intent.masked_addresses import ADDRESS
from app.intent.masked_numbers import BANK_CARD, IDENTITY_CARD, LANDLINE, MOBILE
from app.intent.masking import EMAIL, PLATE
from app.intent.proportions import wilson
from app.intent.text import MaskedText, text_key

MOST_WORDS: Final = 8
"""Most words in `all_of`, and most in `none_of`."""

LONGEST_WORD: Final = 64
"""Most characters of a word after folding."""

LONGEST_PATTERN: Final = 500
"""Most characters of a pattern."""

PATTERN_WINDOW: Final = 1000
"""Characters of a text that patterns look at: their time grows with it, and questions are short."""

MOST_RULES: Final = 100_000
"""Most rules of a domain that are not retired."""

MOST_PATTERNS: Final = 200
"""Most active rules of a domain that have a pattern: each is searched for on its own."""

MOST_FROZEN_BYTES: Final = 12_000_000
"""Most bytes of a rule set as JSON: MySQL and MariaDB take packets of 16 MB by default."""

LEAST_BOUND: Final = 0.9
"""A mined rule with this lower bound of its precision …"""

LEAST_SUPPORT: Final = 8
"""… and this many texts becomes active by itself, where the domain's policy is `auto`."""

LIVE_BAR: Final = 0.8
"""An active rule whose live precision is below it, and not by chance, is retired by itself …"""

LEAST_JUDGED: Final = 8
"""… once so many distinct texts that it matched were labelled."""

# What masking leaves is no word of the person who asked.
_MARKS: Final = re.compile(
    "|".join(map(re.escape, (ADDRESS, BANK_CARD, IDENTITY_CARD, LANDLINE, MOBILE, EMAIL, PLATE)))
)
# Latin, Greek, Cyrillic and Armenian stand before it: alphabets whose words are kept apart by spaces.
_FIRST_BEYOND_ALPHABETS: Final = "\u0590"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a frozen set.

    It matches a text that holds every word of `all_of` and none of `none_of`, and that its `pattern`, if it has one, is
    found in. Without word and pattern it matches nothing.

    Texts and words are compared as `text_key` folds them. A Han word is found wherever its characters stand in a row:
    Chinese puts nothing between words. Where a word begins or ends with a letter or digit of an alphabet, the text's
    word must begin or end there too: `app` is not in `happy`; `wifi密码` is in `我的wifi密码` and not in `hwifi密码`.
    The marks that masking left, such as 【手机号】, hold no words; a pattern sees them. A pattern looks at the first
    `PATTERN_WINDOW` characters.

    Args:
        pattern: RE2 syntax, without regard to case.
        precision: how likely its label is right where it matches and nothing else is known, in (0, 1).
        source: `mined` or `manual`.
    """

    rule_id: int
    label_id: int
    all_of: tuple[str, ...]
    none_of: tuple[str, ...] = ()
    pattern: str | None = None
    precision: float = 0.8
    source: str = "mined"

    def as_json(self) -> dict[str, Any]:
        """Plain values, as a rule set holds them; what nearly every rule leaves at its default is left out."""
        values: dict[str, Any] = {
            "rule_id": self.rule_id,
            "label_id": self.label_id,
            "all_of": list(self.all_of),
            "precision": self.precision,
        }
        if self.none_of:
            values["none_of"] = list(self.none_of)
        if self.pattern is not None:
            values["pattern"] = self.pattern
        if self.source != "mined":
            values["source"] = self.source
        return values


def rule_from_json(values: Mapping[str, Any]) -> Rule:
    """What `Rule.as_json` gave."""
    return Rule(
        rule_id=int(values["rule_id"]),
        label_id=int(values["label_id"]),
        all_of=tuple(values["all_of"]),
        none_of=tuple(values.get("none_of", ())),
        pattern=values.get("pattern"),
        precision=float(values["precision"]),
        source=str(values.get("source", "mined")),
    )


def rule_word(word: str) -> str:
    """A word as rules compare it: the same folding that texts are hashed by."""
    return text_key(MaskedText(word))


def searchable(text: str) -> str:
    """A masked text as words are looked for in it: folded, and with a space for each mark that masking left."""
    return without_marks(text_key(MaskedText(text)))


def without_marks(text: str) -> str:
    """A text with a space for each mark that masking left."""
    return _MARKS.sub(" ", text) if "【" in text else text


def contains(folded_text: str, word: str) -> bool:
    """Whether a text, made `searchable`, holds a word, folded by `rule_word`, as a rule that serves would say."""
    start = folded_text.find(word) if word else -1
    while start >= 0:
        if stands_alone(folded_text, start, start + len(word)):
            return True
        start = folded_text.find(word, start + 1)
    return False


def stands_alone(text: str, start: int, end: int) -> bool:
    """Whether `text[start:end]`, which is not empty, is no mere part of a longer word of an alphabet."""
    if start > 0 and _in_alphabet(text[start]) and _in_alphabet(text[start - 1]):
        return False
    return not (end < len(text) and _in_alphabet(text[end - 1]) and _in_alphabet(text[end]))


def needs_to_stand_alone(word: str) -> bool:
    """Whether `stands_alone` could say no to this word."""
    return _in_alphabet(word[0]) or _in_alphabet(word[-1])


def _in_alphabet(character: str) -> bool:
    return character < _FIRST_BEYOND_ALPHABETS and character.isalnum()


def fails(successes: int, judged: int) -> bool:
    """Whether so many right answers about so many labelled texts say that a rule is not worth serving."""
    return judged >= LEAST_JUDGED and wilson(successes, judged)[1] < LIVE_BAR
