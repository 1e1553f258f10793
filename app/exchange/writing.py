"""Write labelled texts as other tools read them, one row after the other: memory never holds the whole."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any, Final, Protocol

from app.exchange.formulas import guarded
from app.exchange.pieces import UnreadableFile
from app.exchange.rasa import ENTITY, UNPRINTABLE
from app.intent.taxonomy import split

INSTRUCTION: Final = (
    "你是意图分类器。请判断用户输入属于哪一个意图，只输出一个标签："
    "写出从一级到末级的完整路径，各级之间用“ > ”连接，不要解释，不要输出其他内容。"
)
"""Names the task and the rules of the answer; put in front of every text in the form `instruction`."""

_ROWS_IN_ORDER = 5000


class Labelled(Protocol):
    """A text and its label, as any layer holds them."""

    @property
    def text(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def proposed(self) -> str | None: ...


@dataclass(slots=True)
class Writing:
    """What the forms can be asked for, and what they had to leave out, by reason."""

    instruction: str = INSTRUCTION
    include_count: bool = False
    # Whether any label has more than one level: Label Studio then shows a tree.
    nested: bool = True
    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


Rows = Iterable[Labelled]


def _each(rows: Rows, writing: Writing, *, with_proposals: bool) -> Iterator[Labelled]:
    """The rows that the form has a place for, counted."""
    for row in rows:
        if row.proposed is not None and not with_proposals:
            # Without the mark it would say that nothing fits, which is not what the person said.
            writing.left_out["proposed"] += 1
            continue
        writing.written += 1
        yield row


def _marks(row: Labelled, writing: Writing) -> dict[str, Any]:
    marks: dict[str, Any] = {} if row.proposed is None else {"proposed_label": row.proposed}
    return marks | {"count": row.count} if writing.include_count else marks


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _labels(rows: Rows, writing: Writing) -> Iterator[str]:
    for row in _each(rows, writing, with_proposals=True):
        yield _line({"text": row.text, "labels": list(split(row.label))} | _marks(row, writing))


def _instruction(rows: Rows, writing: Writing) -> Iterator[str]:
    for row in _each(rows, writing, with_proposals=False):
        record = {"instruction": writing.instruction, "input": row.text, "output": row.label}
        yield _line(record | _marks(row, writing))


def _doccano(rows: Rows, writing: Writing) -> Iterator[str]:
    for row in _each(rows, writing, with_proposals=True):
        yield _line({"text": row.text, "label": [row.label]} | _marks(row, writing))


def _csv(rows: Rows, writing: Writing) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.writer(line)
    writer.writerow(["user_input", "intent_code"] + ["count"] * writing.include_count)
    for row in _each(rows, writing, with_proposals=False):
        yield line.getvalue()
        line.seek(0)
        line.truncate()
        writer.writerow([guarded(row.text), guarded(row.label)] + [str(row.count)] * writing.include_count)
    yield line.getvalue()


def _label_studio(rows: Rows, writing: Writing) -> Iterator[str]:
    before = "[\n"
    for number, row in enumerate(_each(rows, writing, with_proposals=True), start=1):
        kind, chosen = ("taxonomy", list(split(row.label))) if writing.nested else ("choices", row.label)
        answer = {"from_name": "label", "to_name": "text", "type": kind, "value": {kind: [chosen]}}
        task = {"id": number, "data": {"text": row.text}, "annotations": [{"result": [answer]}]}
        if marks := _marks(row, writing):
            task["meta"] = marks
        yield before + json.dumps(task, ensure_ascii=False)
        before = ",\n"
    yield "\n]\n" if before != "[\n" else "[]\n"


def _rasa(rows: Rows, writing: Writing) -> Iterator[str]:
    """Some thousand rows at a time are brought together by intent; Rasa joins intents that are named again."""
    yield 'version: "3.1"\n\nnlu:\n'
    examples = _each(_fit_for_rasa(rows, writing), writing, with_proposals=False)
    while page := list(islice(examples, _ROWS_IN_ORDER)):
        intents: dict[str, list[str]] = {}
        for row in page:
            intents.setdefault(row.label, []).append(row.text)
        for intent, texts in sorted(intents.items()):
            yield f"- intent: {json.dumps(intent, ensure_ascii=False)}\n  examples: |\n"
            yield from (f"    - {text}\n" for text in texts)


def _fit_for_rasa(rows: Rows, writing: Writing) -> Iterator[Labelled]:
    for row in rows:
        both = f"{row.text}\n{row.label}"
        if ENTITY.search(row.text) or UNPRINTABLE.search(both) or "\ufffd" in both:
            # It would be read as another text: as one with an entity marked, or not at all.
            writing.left_out["not_writable"] += 1
        else:
            yield row


def _parquet(rows: Rows, out: IO[bytes], writing: Writing) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnreadableFile("writing Parquet needs the package pyarrow: install intentloop[parquet]") from error
    string = pyarrow.string()
    columns = [("text", string), ("label", string), ("labels", pyarrow.list_(string)), ("proposed_label", string)]
    schema = pyarrow.schema([*columns, *([("count", pyarrow.int64())] if writing.include_count else [])])
    kept = _each(rows, writing, with_proposals=True)
    with pyarrow.parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while page := list(islice(kept, _ROWS_IN_ORDER)):
            records = [
                {"text": row.text, "label": row.label, "labels": list(split(row.label))} | _marks(row, writing)
                for row in page
            ]
            writer.write_table(pyarrow.Table.from_pylist(records, schema=schema))


def _in_utf8(form: Callable[[Rows, Writing], Iterator[str]]) -> Callable[[Rows, IO[bytes], Writing], None]:
    def write(rows: Rows, out: IO[bytes], writing: Writing) -> None:
        for piece in form(rows, writing):
            out.write(piece.encode())

    return write


WRITERS: Final[Mapping[str, Callable[[Rows, IO[bytes], Writing], None]]] = {
    "labels": _in_utf8(_labels),
    "instruction": _in_utf8(_instruction),
    "csv": _in_utf8(_csv),
    "label-studio": _in_utf8(_label_studio),
    "doccano": _in_utf8(_doccano),
    "rasa": _in_utf8(_rasa),
    "parquet": _parquet,
}
"""How a form is written: rows in, bytes out. What was written and left out is counted in the last argument."""
