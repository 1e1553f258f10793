"""Sealing for one process: everything new, with the end of the chain remembered beside the database."""

import json
from pathlib import Path

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, connect
from app.db.tables import AuditEvent
from app.errors import SetupError
from app.services import audit
from app.services.audit import Actor, Head
from app.trail import Trail, remembered_head
from tests.builders import column

SECRET = b"the secret of an installation, long enough"


@pytest.fixture
def work(sqlite_url: str) -> UnitOfWork:
    return UnitOfWork(connect(sqlite_url))


def write(work: UnitOfWork, count: int) -> None:
    def all_at_once(session: Session) -> None:
        for number in range(count):
            audit.note(session, Actor("olga"), "rule.create", str(number))

    work(all_at_once)


def test_everything_new_is_sealed_and_the_end_remembered(work: UnitOfWork, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "audit.head"
    trail = Trail(work, SECRET, path)
    trail.seal()
    assert remembered_head(path) is None
    write(work, audit.SLICE + 3)
    trail.seal()
    head = remembered_head(path)
    assert head is not None
    assert head.sequence == audit.SLICE + 3
    assert work.read(audit.verify, secret=SECRET, remembered=head).faults == []
    assert [found.name for found in path.parent.iterdir()] == ["audit.head"]


def test_a_cut_trail_is_reported_and_stays_to_be_seen(
    work: UnitOfWork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.head"
    trail = Trail(work, SECRET, path)
    write(work, 5)
    trail.seal()
    before = remembered_head(path)
    work(lambda session: session.execute(delete(AuditEvent).where(AuditEvent.sequence >= 4)))
    for _ in range(3):
        write(work, 1)
        trail.seal()
    assert caplog.text.count("cut or altered") == 1
    # New rows are chained all the same, and what was remembered is not written over.
    assert column(work, AuditEvent.sequence) == [1, 2, 3, 4, 5, 6]
    assert remembered_head(path) == before
    assert work.read(audit.verify, secret=SECRET, remembered=before).faults != []


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", '{"sequence": "x", "chain_hash": "y"}'])
def test_a_damaged_memory_is_a_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "audit.head"
    path.write_text(content)
    with pytest.raises(SetupError, match=r"audit\.head"):
        remembered_head(path)


def test_what_is_remembered_is_one_line_of_json(work: UnitOfWork, tmp_path: Path) -> None:
    path = tmp_path / "audit.head"
    write(work, 1)
    Trail(work, SECRET, path).seal()
    values = json.loads(path.read_text())
    assert Head(**values) == remembered_head(path)
