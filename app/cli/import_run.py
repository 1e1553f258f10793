"""Take a file in, slice by slice, each with its place in the file: a break costs nothing but the time."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.services import file_imports
from app.services.imports import ImportReport, RowReport

Row = TypeVar("Row")
Slice = tuple[list[Row], list[RowReport]]
"""The rows to take in, and what is said of those that are left out."""


@dataclass(slots=True)
class ImportRun(Generic[Row]):
    """One import of one file. `key`: names file and options; None: the file can be read only once, as a pipe can."""

    work: UnitOfWork
    domain: str
    key: str | None
    restart: bool
    report: Path | None
    total: ImportReport = field(default_factory=ImportReport)
    continued: int = 0

    def take_in(
        self,
        slices: Callable[[int], Iterator[Slice[Row]]],
        take: Callable[[Session, Sequence[Row]], ImportReport],
    ) -> None:
        """Take in what is not in yet. `slices(n)`: the file's, behind its first `n` rows."""
        place = file_imports.Place()
        if self.key is not None:
            place, self.total = self.work(file_imports.begin, self.domain, self.key, restart=self.restart)
            self.continued = place.rows
        # On standard error: standard output is the report.
        errors = Console(stderr=True)
        columns = TextColumn("importing"), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn()
        with ExitStack() as stack:
            lines = None
            if self.report is not None:
                lines, kept = _opened(self.report, place.report_bytes)
                stack.enter_context(lines)
                place = replace(place, report_bytes=kept)
            bar = stack.enter_context(
                Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)
            )
            task = bar.add_task("importing", total=None, completed=self.continued)
            for part in slices(self.continued):
                self.total, place = self.work(self._one, part, take, place, lines)
                bar.advance(task, len(part[0]) + len(part[1]))
        self.work(file_imports.finish, place)

    def _one(
        self,
        session: Session,
        part: Slice[Row],
        take: Callable[[Session, Sequence[Row]], ImportReport],
        place: file_imports.Place,
        lines: BinaryIO | None,
    ) -> tuple[ImportReport, file_imports.Place]:
        good, left_out = part
        taken = take(session, good)
        for row in left_out:
            taken.note(row.line, row.status, row.reason)
        total = ImportReport(counts=self.total.counts.copy(), refused=self.total.refused.copy())
        total.add(taken)
        written = _write(lines, place.report_bytes, taken) if lines is not None else 0
        return total, file_imports.advance(session, place, len(taken.rows), written, total)


def key_of(file: Path, *options: object) -> str | None:
    """SHA-256 of the file's bytes and of these options; None for what can be read only once."""
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
    digest.update(json.dumps(options).encode())
    return digest.hexdigest()


def skipped(rows: Iterator[Row], count: int) -> Iterator[Row]:
    """The rows behind the first `count`."""
    return islice(rows, count, None)


def _opened(path: Path, kept: int) -> tuple[BinaryIO, int]:
    """The report's file, and how much of it an earlier run is known to have said."""
    if kept and path.is_file() and path.stat().st_size >= kept:
        return path.open("r+b"), kept
    return path.open("wb"), 0


def _write(lines: BinaryIO, begin: int, taken: ImportReport) -> int:
    """Say what became of these rows, behind what was said of the rows before; return where that ends.

    It is on the disk before the rows are committed, and in the place of what a try that failed said of the same rows.
    """
    lines.seek(begin)
    lines.truncate()
    lines.writelines(_as_json(row) for row in sorted(taken.rows, key=lambda row: row.line))
    lines.flush()
    os.fsync(lines.fileno())
    return lines.tell()


def _as_json(row: RowReport) -> bytes:
    said = {"line": row.line, "status": row.status} | ({"reason": row.reason} if row.reason else {})
    return json.dumps(said, ensure_ascii=False).encode() + b"\n"
