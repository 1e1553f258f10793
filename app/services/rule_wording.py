"""What a person may write into a keyword rule: brought into the form that is matched, or refused with the reason."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.errors import RuleRefused
from app.intent.rule_matching import PatternRefused, check_pattern
from app.intent.rules import LONGEST_WORD, MOST_WORDS, contains, rule_word, without_marks
from app.intent.text import normalise, sanitise

# The column's length.
LONGEST_KEYWORD: Final = 255
_HASH_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class Wording:
    """What a rule looks for, and the keyword that people know it by. All words are folded as texts are."""

    keyword: str
    all_of: tuple[str, ...]
    none_of: tuple[str, ...]
    pattern: str | None


def read(
    keyword: str | None, all_of: Sequence[str] = (), none_of: Sequence[str] = (), pattern: str | None = None
) -> Wording:
    """Check a rule as it was written.

    A keyword alone is the word that is looked for; beside `all_of` or a pattern it is a name, and without one those
    name the rule.

    Raises:
        RuleRefused: too many or too long words, a pattern that serving could not bear, or a rule that can never match.
    """
    wanted, banned = _words("all_of", all_of), _words("none_of", none_of)
    if pattern is not None:
        pattern = sanitise(pattern)
        try:
            check_pattern(pattern)
        except PatternRefused as error:
            raise RuleRefused(str(error)) from error
    name = rule_word(normalise(keyword)) if keyword is not None else None
    if name is not None and not 1 <= len(name) <= LONGEST_KEYWORD:
        raise RuleRefused(f"a keyword has 1 to {LONGEST_KEYWORD} visible characters")
    if not wanted and pattern is None:
        if name is None:
            raise RuleRefused("a rule needs a keyword, words in all_of, or a pattern")
        wanted = _words("keyword", [name])
    for banned_word in banned:
        if any(contains(word, banned_word) for word in wanted):
            raise RuleRefused("a word of none_of is part of a word that must be there: the rule could never match")
    return Wording(name or name_of(wanted, banned, pattern), wanted, banned, pattern)


def name_of(all_of: Sequence[str], none_of: Sequence[str] = (), pattern: str | None = None) -> str:
    """The keyword of a rule that was given none: `退款 + 慢 - 已经 /[0-9]+天/`."""
    parts = [" + ".join(all_of), *(f"- {word}" for word in none_of), f"/{pattern}/" if pattern is not None else ""]
    name = " ".join(filter(None, parts))
    if len(name) <= LONGEST_KEYWORD:
        return name
    # Two long rules that begin alike are still two.
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{name[: LONGEST_KEYWORD - _HASH_DIGITS - 2]}… {digest}"


def _words(field: str, words: Sequence[str]) -> tuple[str, ...]:
    folded = tuple(dict.fromkeys(rule_word(normalise(word)) for word in words))
    if len(folded) > MOST_WORDS:
        raise RuleRefused(f"{field}: a rule has at most {MOST_WORDS} words there")
    for word in folded:
        if not 1 <= len(word) <= LONGEST_WORD:
            raise RuleRefused(f"{field}: a word has 1 to {LONGEST_WORD} visible characters once it is folded")
        if without_marks(word) != word:
            raise RuleRefused(f"{field}: the marks of masked data hold no words; a pattern can look for them")
    return folded
