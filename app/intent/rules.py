"""Keyword rules as values: what one matches, and which label it speaks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app.intent.text import MaskedText, text_key


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a frozen set.

    It matches a text that holds every word of `all_of` and none of `none_of`; with a `pattern` (RE2 syntax) one that
    the pattern is found in, and none of `none_of`. Words and texts are compared by `text_key`.

    Args:
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
        """Plain values, as a rule set holds them."""
        return asdict(self)


def rule_from_json(values: Mapping[str, Any]) -> Rule:
    """What `Rule.as_json` gave."""
    return Rule(
        rule_id=int(values["rule_id"]),
        label_id=int(values["label_id"]),
        all_of=tuple(values["all_of"]),
        none_of=tuple(values["none_of"]),
        pattern=values["pattern"],
        precision=float(values["precision"]),
        source=str(values["source"]),
    )


def rule_word(word: str) -> str:
    """A word as rules compare it: the same folding that texts are hashed by."""
    return text_key(MaskedText(word))
