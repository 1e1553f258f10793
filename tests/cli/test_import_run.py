"""An import that breaks off anywhere and is run again leaves what one run would have left, the report included."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.cli.import_run import ImportRun, Slice, key_of, skipped
from app.db.session import UnitOfWork
from app.db.tables import FileImport, UserQuestion
from app.errors import Conflict
from app.services import file_imports, question_imports
from app.services.imports import ImportReport, RowReport
from app.services.question_imports import QuestionRow
from tests.builders import asked, column, domain_id
from tests.servers import missing

ROWS = 12
SLICE = 3


class Broken(Exception):
    """The process ends here."""


class World:
    """A file of a dozen rows, every fourth of them bad, on a fresh database."""

    def __init__(self, work: UnitOfWork, folder: Path) -> None:
        self.work, self.report = work, folder / "report.jsonl"
        owner = domain_id(work)
        self.rows = [
            QuestionRow(line, asked(f"问{line}", domain_id=owner, request_id=f"r{line}")) for line in range(1, ROWS + 1)
        ]

    def run(self, *, break_at: int | None = None, after_writing: bool = False, restart: bool = False) -> ImportRun:
        run: ImportRun[QuestionRow] = ImportRun(self.work, "default", "ab" * 32, restart, self.report)
        tries = iter(range(ROWS))

        def take(session: Session, rows: Sequence[QuestionRow]) -> ImportReport:
            taken = question_imports.take_in(session, rows)
            if next(tries) == break_at:
                if after_writing:
                    # As a kill does between the report's line and the commit.
                    with self.report.open("ab") as lines:
                        lines.write(b'{"line": 99, "status": "imported"}\n' * 50 + b'{"li')
                raise Broken
            return taken

        try:
            run.take_in(self._slices, take)
        except Broken:
            assert break_at is not None
        return run

    def _slices(self, done: int) -> Iterator[Slice[QuestionRow]]:
        left = list(skipped(iter(self.rows), done))
        for first in range(0, len(left), SLICE):
            part = left[first : first + SLICE]
            yield (
                [row for row in part if row.line % 4],
                [RowReport(row.line, "refused", "bad") for row in part if not row.line % 4],
            )

    def reported(self) -> list[tuple[int, str]]:
        return [(row["line"], row["status"]) for row in map(json.loads, self.report.read_text().splitlines())]


@pytest.fixture
def world(work: UnitOfWork, tmp_path: Path) -> World:
    return World(work, tmp_path)


WHOLE = [(line, "imported" if line % 4 else "refused") for line in range(1, ROWS + 1)]


@pytest.mark.parametrize("after_writing", [False, True])
def test_import_that_breaks_off_goes_on_behind_the_last_slice_that_was_committed(
    world: World, after_writing: bool
) -> None:
    world.run(break_at=2, after_writing=after_writing)
    assert len(column(world.work, UserQuestion.question_id)) == 5
    again = world.run(break_at=1, after_writing=after_writing)
    assert again.continued == 2 * SLICE

    last = world.run()

    assert last.continued == 3 * SLICE
    assert last.total.counts == {"imported": 9, "refused": 3}
    assert last.total.refused == [(4, "bad"), (8, "bad"), (12, "bad")]
    assert world.reported() == WHOLE
    assert len(column(world.work, UserQuestion.question_id)) == 9


def test_import_that_was_finished_begins_anew_and_finds_everything_there(world: World) -> None:
    world.run()
    again = world.run()
    assert (again.continued, again.total.counts) == (0, {"duplicate": 9, "refused": 3})
    assert world.reported() == [(line, "duplicate" if line % 4 else "refused") for line in range(1, ROWS + 1)]
    assert len(column(world.work, FileImport.id)) == 1


def test_restart_begins_anew(world: World) -> None:
    world.run(break_at=2)
    again = world.run(restart=True)
    assert (again.continued, again.total.counts) == (0, {"duplicate": 5, "imported": 4, "refused": 3})


def test_report_that_is_gone_begins_where_the_import_goes_on(world: World) -> None:
    world.run(break_at=2)
    world.report.unlink()
    world.run()
    assert world.reported() == WHOLE[2 * SLICE :]


def test_of_two_processes_with_one_file_the_slower_one_ends_and_leaves_nothing_half(world: World) -> None:
    place, _ = world.work(file_imports.begin, "default", "ab" * 32)
    world.run()

    def late(session: Session) -> None:
        question_imports.take_in(session, [QuestionRow(1, asked("晚", domain_id=world.rows[0].asked.domain_id))])
        file_imports.advance(session, place, 1, 0, ImportReport())

    with pytest.raises(Conflict, match="another process"):
        world.work(late)
    assert len(column(world.work, UserQuestion.question_id)) == 9


def test_other_bytes_or_other_options_are_another_import(tmp_path: Path) -> None:
    path = tmp_path / "a"
    keys = set()
    for content in (b"a", b"b"):
        path.write_bytes(content)
        keys |= {key_of(path, "labels", None), key_of(path, "labels", "csv"), key_of(path, "questions", None)}
        assert key_of(path, "labels", None) in keys
    assert len(keys) == 6


def test_pipe_is_read_once_and_not_remembered(migrated, empty_folder) -> None:
    if not hasattr(os, "mkfifo"):
        missing("a file system with pipes")
    pipe = empty_folder / "pipe"
    os.mkfifo(pipe)
    assert key_of(pipe) is None
    writer = subprocess.Popen(
        [sys.executable, "-c", f"open({str(pipe)!r}, 'w').write('{{\"question\": \"一\"}}\\n' * 3)"]
    )
    said = migrated("import", pipe, "--questions", "--json")
    assert writer.wait() == 0
    assert said.json == {"counts": {"imported": 3}, "refused": [], "continued_after_rows": 0}


def _questions(number: int) -> dict[str, object]:
    # Half of them without an id: a repeat would not be noticed by that.
    with_id = {"request_id": f"r{number}"} if number % 2 else {}
    return {"question": f"第{number}句", "intents": ["a > b"], "confidence": 0.5, "method": "generative", **with_id}


@pytest.mark.parametrize("kind", ["labels", "questions"])
def test_import_that_is_killed_and_run_again_is_as_if_it_had_not_been(run, empty_folder, monkeypatch, kind) -> None:
    options = {"labels": ["--create-labels"], "questions": ["--questions"]}[kind]
    count = 5000
    path, report = empty_folder / "rows.jsonl", empty_folder / "report.jsonl"
    with path.open("w") as file:
        for number in range(count):
            row = _questions(number) if kind == "questions" else {"text": f"第{number}句", "label": f"类{number % 7}"}
            file.write(("{" if number % 20 == 3 else json.dumps(row)) + "\n")
    command = [sys.executable, "-m", "app", "import", str(path), *options, "--report", str(report)]

    def kill(name: str) -> bool:
        """Whether it was still running, on a database of its own, once it had told of more than one slice."""
        monkeypatch.setenv("INTENTLOOP_DATA_DIR", str(empty_folder / name))
        assert run("migrate").status == 0
        report.unlink(missing_ok=True)
        running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        while running.poll() is None and not (report.exists() and report.stat().st_size > 50_000):
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        return running.wait() == -signal.SIGKILL

    # On a machine that is busy elsewhere it may be over before anybody looks.
    assert any(kill(f"killed-{number}") for number in range(10))
    said = run("import", path, *options, "--report", report, "--json")

    assert said.json["continued_after_rows"] > 0
    assert said.json["counts"] == {"imported": count - count // 20, "refused": count // 20}
    assert len(said.json["refused"]) == count // 20
    reported = [json.loads(line) for line in report.read_text().splitlines()]
    assert [row["line"] for row in reported] == list(range(1, count + 1))
    assert [row["line"] for row in reported if row["status"] != "imported"] == list(range(4, count + 1, 20))
    again = run("import", path, *options, "--json")
    assert again.json["counts"] == {"duplicate": count - count // 20, "refused": count // 20}
