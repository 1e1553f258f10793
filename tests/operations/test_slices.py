"""What is too old goes in slices, and who writes meanwhile gets in between them."""

import itertools
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, connect
from app.db.tables import Text, UserQuestion
from app.main import opening_rule
from app.operations import forgetting as operation
from app.services import counters, folding, forgetting, intake, recounting
from app.services.forgetting import Forgotten
from app.settings import Settings
from jobs.context import JobContext
from jobs.purge import purge
from tests.builders import ask, asked, column, domain_id, label, set_taxonomy, text_of

SLICES = 12
SLICE = 25


def _context(url: str, folder: Path, **changes: object) -> JobContext:
    settings = Settings(_env_file=None, data_dir=folder, database_url=url, **changes)  # type: ignore[arg-type]
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    return JobContext(settings, UnitOfWork(connect(url)), opening_rule(settings))


def _counted_right(work: UnitOfWork, owner: int) -> None:
    levels = ("text", "queued", "labelled", "text_label", "trainable")
    told = work.read(lambda session: counters.of_domain(session, owner))
    rows = work.read(recounting.counted, owner)
    for found in (told, rows):
        for key in [key for key in found if key[1] not in levels]:
            del found[key]
    assert told == rows


def test_questions_are_logged_between_the_slices_of_a_purge(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the order in which transactions end, not by a clock."""
    context = _context(database_url, tmp_path, question_days=30)
    owner, long_ago = domain_id(context.work), datetime.now(UTC) - timedelta(days=40)
    context.work(intake.record, [asked(f"第{n}句", domain_id=owner, asked_at=long_ago) for n in range(SLICES * SLICE)])
    while context.work(folding.fold):
        pass
    monkeypatch.setattr(forgetting, "SLICE", SLICE)
    plain, sizes, logged, after = forgetting.forget_slice, [], itertools.count(), []
    written, done = 0, threading.Event()

    def forget_slice(session: Session, condition: object) -> Forgotten:
        forgotten = plain(session, condition, limit=SLICE)  # type: ignore[arg-type]
        sizes.append(forgotten.questions)
        after.append(written)
        return forgotten

    def write() -> None:
        nonlocal written
        own = UnitOfWork(connect(database_url))
        while not done.is_set():
            own(intake.record, [asked(f"新的第{next(logged)}句", domain_id=owner)])
            written += 1
        own.engine.dispose()

    monkeypatch.setattr(operation.forgetting, "forget_slice", forget_slice)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        detail = purge(context)
    finally:
        done.set()
        writer.join()
    assert detail["forgotten_questions"] == SLICES * SLICE
    assert sizes == [SLICE] * SLICES + [0]
    # However the threads are scheduled, nobody waits for half of the slices.
    waits = [sum(1 for _ in same) for _, same in itertools.groupby(after)]
    assert max(waits) <= SLICES // 2, after
    while context.work(folding.fold):
        pass
    assert len(column(context.work, UserQuestion.question_id)) == written
    _counted_right(context.work, owner)
    context.work.engine.dispose()


def test_a_text_that_is_labelled_or_asked_again_meanwhile_is_not_forgotten(database_url: str, tmp_path: Path) -> None:
    context = _context(database_url, tmp_path)
    work, line = context.work, datetime.now(UTC) - timedelta(days=30)
    owner = domain_id(work)
    set_taxonomy(work, ["甲", "乙"])
    long_ago = line - timedelta(days=10)
    labelled, again, _ = ask(work, "标注了", "又问了", "没人要", asked_at=long_ago)
    found = work.read(forgetting.outlived, owner, line, after=0)
    assert found is not None
    assert len(found.asked) == 3
    label(work, labelled, "甲")
    ask(work, "又问了")
    assert operation.forget_all(work, found.questions()).texts == 1
    assert sorted(column(work, Text.text)) == sorted(["标注了", "又问了"])
    assert work.read(text_of, again).count == 2
    _counted_right(work, owner)
    work.engine.dispose()


def test_an_import_that_is_asked_meanwhile_is_not_forgotten(sqlite_url: str, tmp_path: Path) -> None:
    work = _context(sqlite_url, tmp_path).work
    line, long_ago = datetime.now(UTC) - timedelta(days=30), datetime(2020, 1, 1, tzinfo=UTC)
    rows = [
        {
            "domain_id": 1,
            "text_hash": f"{n}" * 64,
            "group_hash": f"{n}" * 64,
            "text": f"第{n}",
            "last_asked_at": long_ago,
        }
        for n in range(2)
    ]
    work(lambda session: session.execute(insert(Text), rows))
    found = work.read(forgetting.outlived, 1, line, after=0)
    assert found is not None
    assert (len(found.asked), len(found.unasked)) == (0, 2)
    work(lambda session: setattr(session.get(Text, found.unasked[0]), "count", 1))
    assert work(forgetting.forget_unasked, found.unasked, line).texts == 1
    assert column(work, Text.id) == [found.unasked[0]]
    work.engine.dispose()
