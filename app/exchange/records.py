"""Tell by its keys which tool a record of JSON came from, and find the text and the one label in it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.exchange import argilla, label_studio
from app.exchange.rows import LabelledRow, Named, Row, RowRefused, labelled_row, one_label, type_of

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """A way in which a tool writes a labelled text. `keys`: how it is known, in words."""

    keys: str
    knows: Callable[[Record], bool]
    # `guesses`: take what a model said where no person answered.
    read: Callable[[int, Record, bool], LabelledRow]


PAIRS: Final = (("text", "label"), ("text", "labels"), ("user_input", "intent_code"))
"""The keys of the text and of its label in the plain form; the first pair that a row has is taken."""


def plain(line: int, record: Record, _: bool = False) -> LabelledRow:
    """`text` and `label` (the whole path), `text` and `labels` (its levels), or `user_input` and `intent_code`."""
    for text_key, label_key in PAIRS:
        if text_key in record and label_key in record:
            break
    else:
        raise RowRefused("neither text and label, nor text and labels, nor user_input and intent_code")
    label = record[label_key]
    if label_key == "labels" and not isinstance(label, list):
        raise RowRefused(f"labels is {type_of(label)} instead of a list of levels")
    if label_key != "labels" and isinstance(label, list):
        raise RowRefused(f"{label_key} is a list instead of a string")
    return labelled_row(line, Named(text_key, record[text_key]), Named(label_key, label), record.get("proposed_label"))


def _doccano(line: int, record: Record, _: bool) -> LabelledRow:
    text_key = "text" if "text" in record else "data"
    label_key = "label" if "label" in record else "labels"
    given = record[label_key]
    given = given if isinstance(given, list) else [given]
    if any(isinstance(label, list | dict) for label in given):
        raise RowRefused(f"{label_key} marks spans of the text instead of naming the text's label")
    label = one_label(label_key, given)
    return labelled_row(line, Named(text_key, record[text_key]), label, record.get("proposed_label"))


def _instruction(line: int, record: Record, _: bool) -> LabelledRow:
    return labelled_row(line, Named("input", record["input"]), Named("output", record["output"]))


def _plain_keys(record: Record) -> bool:
    return any({text, label} <= record.keys() for text, label in PAIRS)


def _doccano_keys(record: Record) -> bool:
    return ("text" in record or "data" in record) and ("label" in record or "labels" in record)


FORMS: Final[Mapping[str, Form]] = {
    "label-studio": Form("data and annotations", label_studio.knows, label_studio.read),
    "argilla": Form("fields with responses or suggestions, or annotation or prediction", argilla.knows, argilla.read),
    "doccano": Form("text and a list label", _doccano_keys, _doccano),
    "instruction": Form("input and output", lambda record: {"input", "output"} <= record.keys(), _instruction),
    "labels": Form("text and label, text and labels, or user_input and intent_code", _plain_keys, plain),
}


def read_record(line: int, record: object, form: str | None, guesses: bool) -> Iterator[Row]:
    """The row of a record: by this form, or by the one that its keys speak of."""
    try:
        if not isinstance(record, dict):
            raise RowRefused(f"{type_of(record)} instead of an object")
        if form is not None and not FORMS[form].knows(record):
            raise RowRefused(f"no {form} record, which has {FORMS[form].keys}")
        yield FORMS[form or _form_of(record)].read(line, record, guesses)
    except RowRefused as refused:
        yield refused.at(line)


def _form_of(record: Record) -> str:
    for name in ("label-studio", "argilla", "instruction"):
        if FORMS[name].knows(record):
            return name
    # A list under `label` is doccano's; under `labels` it holds the levels of one label, as we write it.
    lists = _doccano_keys(record) and isinstance(record.get("label"), list)
    return "doccano" if lists or ("data" in record and _doccano_keys(record)) else "labels"
