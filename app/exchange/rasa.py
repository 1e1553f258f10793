"""Read the intents of Rasa's NLU training data, example by example; what is no intent is counted and left."""

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from app.exchange.pieces import BadRow, Source, UnreadableFile
from app.exchange.rows import Named, Row, RowRefused, labelled_row

MAX_YAML_BYTES: Final = 64 << 20
"""Most bytes of YAML that are read, after decompression: one intent's examples are one value, held whole."""

_MOST_LEVELS = 16
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# [the text](entity), [the text](entity:value), [the text]{"entity": …} and [the text][{…}, {…}]. No part may hold
# the bracket that opens it, so that a line full of brackets is still read in linear time.
ENTITY: Final = re.compile(r"\[([^\[\]]+)\](?:\([^()]*\)|\{[^{}]*\}|\[[^\[\]]*\])")

# What YAML forbids; it would end the reading of the whole file.
UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"
_KINDS = {"synonym": "a synonym", "regex": "a regular expression", "lookup": "a lookup table"}


@dataclass(frozen=True, slots=True)
class _Scalar:
    value: str
    line: int  # of its first character, from 1


def looks_like_rasa(head: bytes) -> bool:
    """Whether a file that begins so is Rasa's training data."""
    return re.match(rb"(?:#[^\n]*\n|---[^\n]*\n|\s)*(?:version|nlu)[ \t]*:", head) is not None


def rasa_rows(source: Source) -> Iterator[Row]:
    """Every example of every intent, without its entity marks.

    Raises:
        UnreadableFile: at the place where the file is no YAML, refers to itself by an alias, or nests too deep.
    """
    try:
        for item in _items(_Events(source)):
            yield from _rows(item)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" from line {mark.line + 1} on" if mark else ""
        raise UnreadableFile(f"{source.name} is no YAML that can be read{place}") from error


class _Characters:
    """The characters of a file for the YAML parser; what it would refuse is replaced, and costs one row."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, size: int = -1) -> str:
        raw = self._source.read(size if size > 0 else 1 << 16)
        text = UNPRINTABLE.sub(_REPLACEMENT, self._decoder.decode(raw, final=not raw))
        # An empty answer means the end; a chunk may hold only the first bytes of one character.
        return text if text or not raw else self.read(size)


class _Events:
    """The parser's events. They never build more than one entry of the file, whatever the file refers to."""

    def __init__(self, source: Source) -> None:
        self._name = source.name
        self._events: Iterator[Any] = yaml.parse(_Characters(source), Loader=_LOADER)

    def next(self) -> Any:
        event = next(self._events)
        if isinstance(event, yaml.AliasEvent):
            raise UnreadableFile(f"line {_line_of(event)} of {self._name} is a YAML alias, which is not read")
        return event

    def value(self, depth: int = 0) -> Any:
        """The next value: a scalar, a list, or a mapping by its scalar keys; None where a collection ends."""
        event = self.next()
        if isinstance(event, yaml.ScalarEvent):
            block = event.style in ("|", ">")
            return _Scalar(event.value, _line_of(event) + block)
        if not isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            return None
        if depth == _MOST_LEVELS:
            raise UnreadableFile(f"line {_line_of(event)} of {self._name} is nested too deep")
        return self.rest_of(event, depth + 1)

    def rest_of(self, opened: Any, depth: int) -> Any:
        """The collection whose first event was taken."""
        values = []
        while (value := self.value(depth)) is not None:
            values.append(value)
        if isinstance(opened, yaml.SequenceStartEvent):
            return values
        pairs = zip(values[::2], values[1::2], strict=True)
        return {key.value: value for key, value in pairs if isinstance(key, _Scalar)}


def _line_of(event: yaml.Event) -> int:
    mark: Any = event.start_mark
    return int(mark.line) + 1


def _items(events: _Events) -> Iterator[Any]:
    """The entries of `nlu`; other parts of the file are passed over."""
    while not isinstance(event := events.next(), yaml.StreamEndEvent):
        if isinstance(event, yaml.MappingStartEvent):
            yield from _parts(events)
        elif isinstance(event, yaml.SequenceStartEvent | yaml.ScalarEvent):
            raise UnreadableFile("the YAML is no mapping with the key nlu")


def _parts(events: _Events) -> Iterator[Any]:
    while (key := events.value()) is not None:
        event = events.next()
        wanted = isinstance(key, _Scalar) and key.value == "nlu"
        if wanted and isinstance(event, yaml.SequenceStartEvent):
            while (item := events.value(1)) is not None:
                yield item
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            events.rest_of(event, 1)


def _rows(item: Any) -> Iterator[Row]:
    fields: Mapping[str, Any] = item if isinstance(item, dict) else {}
    intent, examples = fields.get("intent"), fields.get("examples")
    if not isinstance(intent, _Scalar):
        kind = next((words for key, words in _KINDS.items() if key in fields), "an entry without an intent")
        yield BadRow(_line(item), f"{kind} is no labelled text", ignored=True)
        return
    if not isinstance(examples, _Scalar | list):
        yield BadRow(intent.line, "the intent has no examples")
        return
    for line, text, reason in _texts(examples):
        yield BadRow(line, reason) if reason else _row(line, text, intent.value)


def _texts(examples: _Scalar | list[Any]) -> Iterator[tuple[int, str, str | None]]:
    """Line, text, and why it is none. A list of examples is the long way to write them, with `text` and metadata."""
    if isinstance(examples, _Scalar):
        for number, written in enumerate(examples.value.split("\n")):
            example = written.strip()
            if example:
                dashed = example.startswith("-")
                yield examples.line + number, example[1:].strip(), None if dashed else "an example begins with a dash"
        return
    for example in examples:
        text = example.get("text") if isinstance(example, dict) else example
        if isinstance(text, _Scalar):
            yield text.line, text.value.strip(), None
        else:
            yield _line(example), "", "an example without a text"


def _row(line: int, text: str, intent: str) -> Row:
    if _REPLACEMENT in text or _REPLACEMENT in intent:
        return BadRow(line, "not UTF-8, or a character that YAML does not allow")
    try:
        return labelled_row(line, Named("the example", ENTITY.sub(r"\1", text)), Named("intent", intent))
    except RowRefused as refused:
        return refused.at(line)


def _line(value: Any) -> int:
    """Where a value begins, as far as it holds anything."""
    if isinstance(value, _Scalar):
        return value.line
    inner = value.values() if isinstance(value, dict) else value
    return min((line for part in inner if (line := _line(part))), default=0)
