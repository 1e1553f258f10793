"""Find the rules of a set that match a text: one walk over the text, whatever the number of rules."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import ahocorasick
import re2

from app.intent.rules import (
    LONGEST_PATTERN,
    PATTERN_WINDOW,
    Rule,
    needs_to_stand_alone,
    stands_alone,
    without_marks,
)
from app.intent.text import MaskedText, text_key

# Of one compiled pattern. A pattern that would need more is refused, and a search never takes more.
_PATTERN_BYTES: Final = 1 << 20
# Instructions of a compiled pattern; a search takes at most about a nanosecond for each and each byte of the text.
_LARGEST_PROGRAM: Final = 1000
_UNION_BYTES: Final = 16 << 20
# A pattern that finds nothing in one of these finds nothing in all that hold it.
_PROBES: Final = (b"", b"a", b"a b", "中".encode(), "中 文".encode())


class PatternRefused(ValueError):
    """The pattern cannot be searched for; the message says why."""


def check_pattern(pattern: str) -> None:
    """Hold a pattern to what serving can search for in linear time and bounded memory.

    Raises:
        PatternRefused: too long, no RE2 syntax, too large when compiled, or it is found where nothing stands.
    """
    if not pattern or len(pattern) > LONGEST_PATTERN:
        raise PatternRefused(f"a pattern has 1 to {LONGEST_PATTERN} characters")
    if not unicodedata.is_normalized("NFKC", pattern):
        raise PatternRefused("the pattern holds characters (full-width ones, say) that no normalised text holds")
    compiled = _compile(pattern)
    if compiled.programsize > _LARGEST_PROGRAM:
        raise PatternRefused(
            f"the pattern is too large: {compiled.programsize} instructions, at most {_LARGEST_PROGRAM}; "
            "a shorter repetition ({0,20} for {0,200}) makes it smaller"
        )
    for probe in _PROBES:
        found = compiled.search(probe)
        if found is not None and found.start() == found.end():
            raise PatternRefused("the pattern is found where nothing stands: it would match every text")


def _compile(pattern: str, most_bytes: int = _PATTERN_BYTES) -> Any:
    options = re2.Options()
    options.max_mem = most_bytes
    options.case_sensitive = False
    options.never_capture = True
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        reason = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise PatternRefused(f"the pattern is not RE2 syntax: {reason}") from error


class WordFinder:
    """Finds which of many words a text holds, each as `rules.contains` would say, in one walk over the text."""

    def __init__(self, words: Iterable[str]) -> None:
        # Those that must stand alone come first: one comparison tells them.
        self.words = sorted(set(words) - {""}, key=lambda word: (not needs_to_stand_alone(word), word))
        self._lengths = [len(word) for word in self.words if needs_to_stand_alone(word)]
        # Numbers in place of objects: 100,000 tuples would outweigh the words.
        self._automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS, ahocorasick.KEY_STRING)
        for number, word in enumerate(self.words):
            self._automaton.add_word(word, number)
        self._automaton.make_automaton()

    def found(self, text: str) -> set[int]:
        """The positions in `words` of those that a `searchable` text holds."""
        found: set[int] = set()
        if not self.words:
            return found
        lengths, alone_until = self._lengths, len(self._lengths)
        for end, number in self._automaton.iter(text):
            if number in found:
                continue
            if number < alone_until and not stands_alone(text, end + 1 - lengths[number], end + 1):
                continue
            found.add(number)
        return found


class Matcher:
    """The rules of one frozen set, ready to be looked for. Never changes, so threads may share it."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = sorted(rules, key=lambda rule: rule.rule_id)
        self._finder = WordFinder(word for rule in self._rules for word in (*rule.all_of, *rule.none_of))
        # For each word: the rules that it alone decides, and those that ask for more, under their rarest word.
        self._alone: dict[int, list[int]] = {}
        self._asking: dict[int, list[int]] = {}
        self._needs: dict[int, tuple[frozenset[int], frozenset[int]]] = {}
        self._patterns: dict[int, Any] = {}
        self._unanchored: list[int] = []
        self._place({word: number for number, word in enumerate(self._finder.words)})
        self._any_pattern = self._union()

    def __len__(self) -> int:
        return len(self._rules)

    def matched(self, text: str) -> list[Rule]:
        """The rules that match a masked text, by id."""
        folded = text_key(MaskedText(text))
        found = self._finder.found(without_marks(folded))
        alone, asking = self._alone, self._asking
        positions: list[int] = []
        for number in found:
            if number in alone:
                positions += alone[number]
            if number in asking:
                positions += [position for position in asking[number] if self._holds(position, found)]
        if self._patterns:
            positions = self._with_pattern(positions, found, folded)
        # Positions are in the order of the ids.
        return [self._rules[position] for position in sorted(positions)]

    def _place(self, number_of: dict[str, int]) -> None:
        frequency = Counter(word for rule in self._rules for word in set(rule.all_of))
        for position, rule in enumerate(self._rules):
            wanted = [word for word in dict.fromkeys(rule.all_of) if word]
            banned = frozenset(number_of[word] for word in rule.none_of if word)
            if rule.pattern is not None:
                self._patterns[position] = _compile(rule.pattern)
            if not wanted:
                if rule.pattern is not None:
                    self._needs[position] = (frozenset(), banned)
                    self._unanchored.append(position)
                continue
            # The rarest: were it a word of all rules, each question with that word would have to look at all of them.
            rarest = number_of[min(wanted, key=lambda word: (frequency[word], word))]
            if len(wanted) == 1 and not banned:
                self._alone.setdefault(rarest, []).append(position)
            else:
                self._needs[position] = (frozenset(number_of[word] for word in wanted), banned)
                self._asking.setdefault(rarest, []).append(position)

    def _holds(self, position: int, found: set[int]) -> bool:
        wanted, banned = self._needs[position]
        return wanted <= found and banned.isdisjoint(found)

    def _with_pattern(self, positions: Sequence[int], found: set[int], folded: str) -> list[int]:
        """Those of `positions` that have no pattern or one that is found, and the rules of a pattern alone."""
        patterns, seen = self._patterns, folded[:PATTERN_WINDOW].encode()
        if self._any_pattern is not None and self._any_pattern.search(seen) is None:
            return [position for position in positions if position not in patterns]
        candidates = [*positions, *(position for position in self._unanchored if self._holds(position, found))]
        return [
            position
            for position in candidates
            if position not in patterns or patterns[position].search(seen) is not None
        ]

    def _union(self) -> Any:
        """All patterns as one, so that a text in which none is found, as in most, is searched once."""
        if not self._patterns:
            return None
        distinct = sorted({self._rules[position].pattern or "" for position in self._patterns})
        try:
            return _compile("|".join(f"(?:{pattern})" for pattern in distinct), _UNION_BYTES)
        except PatternRefused:
            # Too large together: each is searched for on its own.
            return None
