"""A row of a labelled file: what it has to say, and why it is left out when it does not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.exchange.pieces import BadRow
from app.intent.taxonomy import SEPARATOR
from app.intent.text import TextEmpty, TextTooLong, clean, normalise

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_TYPES: Final[Mapping[type, str]] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A text as it stands in the file, and its label: normalised levels joined by " > ". `line`: from 1.

    `proposed`: the label that the person missed in the taxonomy; `label` is then the one for what fits nowhere.
    """

    line: int
    text: str
    label: str
    proposed: str | None = None


Row = LabelledRow | BadRow


class RowRefused(ValueError):
    """This row cannot be used. `ignored`: it holds no label and never meant to, so nobody needs to mend it."""

    def __init__(self, reason: str, *, ignored: bool = False) -> None:
        super().__init__(reason)
        self.ignored = ignored

    def at(self, line: int) -> BadRow:
        """The row that is left out, with its place."""
        return BadRow(line, str(self), self.ignored)


@dataclass(frozen=True, slots=True)
class Named:
    """What a file says under some name, not looked at yet."""

    name: str
    value: Any


def labelled_row(line: int, text: Named, label: Named, proposed: Any = None) -> LabelledRow:
    """The row, once text and label are what they must be. A label is a whole path or the list of its levels.

    Raises:
        RowRefused: they are not.
    """
    levels = label.value if isinstance(label.value, list) else [label.value]
    for part in (text, *(Named(label.name, level) for level in levels)):
        if reason := _refusal(part.value):
            raise RowRefused(f"{part.name} {reason}")
    path = joined(label.name, levels)
    if proposed is None or proposed == "":
        return LabelledRow(line, text.value, path)
    if reason := _refusal(proposed):
        raise RowRefused(f"proposed_label {reason}")
    return LabelledRow(line, text.value, path, normalise(proposed))


def joined(name: str, levels: Sequence[str]) -> str:
    """The path of a label from its levels.

    Raises:
        RowRefused: there is none, or one would be taken for two.
    """
    if not levels:
        raise RowRefused(f"{name} is empty instead of a list of levels")
    levels = [normalise(level) for level in levels]
    if len(levels) > 1 and any(SEPARATOR in level for level in levels):
        raise RowRefused(f"a level of {name} holds {SEPARATOR!r}, which parts levels")
    return SEPARATOR.join(levels)


def one_label(name: str, given: Sequence[Any]) -> Named:
    """The one label of several that were given, each a whole path or a list of levels.

    Raises:
        RowRefused: there is none, or there are several different ones.
    """
    if not given:
        raise RowRefused(f"{name} is empty: nobody labelled it", ignored=True)
    different: list[Any] = []
    for label in given:
        if label not in different:
            different.append(label)
    if len(different) > 1:
        raise RowRefused(f"{name} holds {len(different)} labels, and a single-label domain takes one")
    return Named(name, different[0])


def type_of(value: object) -> str:
    """What a value of JSON is, in words."""
    return _TYPES.get(type(value), "something else")


def _refusal(value: object) -> str | None:
    """Why this cannot be a text or a level, or None."""
    if not isinstance(value, str):
        return f"is {type_of(value)} instead of a string"
    if _UNSTORABLE.search(value):
        return "holds NUL or half a character (a lone surrogate)"
    try:
        clean(value)
    except TextEmpty:
        return "is empty"
    except TextTooLong as error:
        return f"is too long: {error}"
    return None
