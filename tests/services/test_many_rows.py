"""What a service costs follows what it is asked for, not how many rows there are.

Counted in the steps of SQLite's virtual machine: the same on every machine.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, connect
from app.db.tables import Annotation, Lease, Text, UserQuestion
from app.services import domains, folding, forgetting, intake, queue, recounting, selection, texts
from tests.builders import ask, asked, column, domain_id, domain_of, gold_text, label, set_taxonomy, trainable_text
from tests.conftest import Databases

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
Service = Callable[[Session], Any]


def steps(work: UnitOfWork, service: Service) -> int:
    """How many steps it takes; what it changes is taken back."""
    taken = 0

    class Back(Exception):
        pass

    def step() -> None:
        nonlocal taken
        taken += 1

    def run(session: Session) -> None:
        driver: Any = session.connection().connection.driver_connection
        driver.set_progress_handler(step, 1)
        try:
            service(session)
        finally:
            driver.set_progress_handler(None, 0)
        raise Back

    with pytest.raises(Back):
        work(run)
    return taken


def grow(work: UnitOfWork, count: int, **values: Any) -> list[int]:
    """So many more texts, which nobody asked; the ids."""
    owner, before = domain_id(work), len(column(work, Text.id))
    row = {"domain_id": owner, "priority": 0.5, "last_asked_at": datetime.now(UTC), "scored_by": "default-v1"} | values

    def write(session: Session) -> None:
        numbers = range(before, before + count)
        rows = [row | {"text_hash": f"{n:064d}", "group_hash": f"{n:064d}", "text": f"第{n}"} for n in numbers]
        session.execute(insert(Text), rows)

    work(write)
    return column(work, Text.id)[before:]


def test_the_next_texts_cost_the_same_however_many_wait(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    grow(sqlite_work, 100)

    def ten(labeler: str | None, strategy: str) -> Service:
        return lambda session: queue.unlabelled(
            session, domain_of(session), limit=10, labeler_id=labeler, strategy=strategy
        )

    asked_for = [ten(labeler, strategy) for labeler in (None, "ana") for strategy in ("priority", "random")]
    few = [steps(sqlite_work, service) for service in asked_for]
    grow(sqlite_work, 4_000)
    many = [steps(sqlite_work, service) for service in asked_for]
    # Where a random draw begins near the end of the hashes, it goes on at their beginning.
    assert all(more < 2 * less for less, more in zip(few, many, strict=True)), (few, many)


def test_mariadb_looks_up_the_skips_of_each_text_and_reads_no_other_answers(
    databases: Databases, tmp_path: Path
) -> None:
    """Counted in rows that the storage engine gave."""
    engine = connect(databases.fresh("mariadb", tmp_path))
    work = UnitOfWork(engine)
    set_taxonomy(work, ["甲"])
    waiting = grow(work, 300)

    def rows_read(session: Session) -> int:
        def told() -> int:
            status = session.connection().exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all()
            return sum(int(value) for _, value in status)

        before = told()
        assert len(queue.unlabelled(session, domain_of(session), limit=10, labeler_id="ana")) == 10
        return told() - before

    few = work(rows_read)
    owner = domain_id(work)
    rows = [
        {"domain_id": owner, "text_id": text_id, "labeler_id": f"other {number}", "revision": 1, "kind": "skip"}
        for text_id in waiting
        for number in range(7)
    ]
    work(lambda session: session.execute(insert(Annotation), rows))
    work(lambda session: session.execute(delete(Lease)))
    work(lambda session: session.execute(update(Text).values(leased_until=None)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE TABLE intent_annotations, intent_texts")
    assert work(rows_read) < 2 * few
    engine.dispose()


def test_a_stream_reads_each_text_once_however_many_pages_it_has(
    sqlite_work: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "WINDOW", 100)

    def stream(session: Session) -> None:
        after = 0
        while page := selection.stale(session, 1, "default-v2", limit=20, after=after):
            after = page[-1].text_id

    grow(sqlite_work, 200)
    few = steps(sqlite_work, stream)
    grow(sqlite_work, 1_800)
    assert steps(sqlite_work, stream) < 10 * few * 1.5


def test_a_stream_gives_every_stale_text_of_its_domain_once_and_in_order(
    work: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "WINDOW", 7)
    work(domains.create, "other")
    mine, fresh = grow(work, 40), grow(work, 20, scored_by="default-v2")
    theirs = grow(work, 15, domain_id=domain_id(work, "other"))
    late = grow(work, 10, scored_by=None)
    work(lambda session: session.execute(update(Text).where(Text.id == mine[3]).values(state="skipped")))
    owner, found, after = domain_id(work), [], 0
    while page := work.read(selection.stale, owner, "default-v2", limit=9, after=after):
        assert len(page) <= 9
        found += [text.text_id for text in page]
        after = page[-1].text_id
    assert found == [text_id for text_id in [*mine, *late] if text_id != mine[3]]
    assert not {*fresh, *theirs} & {*found}


def test_the_draw_of_gold_does_not_read_the_queue(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    ask(sqlite_work, *[gold_text("甲") for _ in range(30)])
    grow(sqlite_work, 100)

    def draw(session: Session) -> None:
        domain = domains.locked(session, "default")
        assert selection.draw_gold(session, domain, size=50, rng=np.random.default_rng(1)).drawn == 8

    few = steps(sqlite_work, draw)
    grow(sqlite_work, 3_000)
    assert steps(sqlite_work, draw) < few * 1.25


def test_a_slice_of_forgetting_does_not_read_what_others_answered(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    for question_id in ask(sqlite_work, *[trainable_text("甲") for _ in range(20)]):
        label(sqlite_work, question_id, "甲")

    def forget(session: Session) -> None:
        soon = datetime.now(UTC) + timedelta(days=1)
        assert forgetting.forget_slice(session, forgetting.asked_before(1, soon), limit=10).questions == 10

    few = steps(sqlite_work, forget)
    others = grow(sqlite_work, 2_000)
    rows = [
        {"domain_id": 1, "text_id": text_id, "labeler_id": "bo", "revision": 1, "kind": "skip", "question_id": f"{n}"}
        for n, text_id in enumerate(others)
    ]
    sqlite_work(lambda session: session.execute(insert(Annotation), rows))
    assert steps(sqlite_work, forget) < few * 1.25


def test_the_search_for_what_outlived_its_use_reads_the_table_once(
    sqlite_work: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "WINDOW", 100)
    monkeypatch.setattr(forgetting, "SLICE", 20)
    line = datetime(2021, 1, 1, tzinfo=UTC)

    def search(session: Session) -> None:
        after = 0
        while found := forgetting.outlived(session, 1, line, after=after):
            after = found.last_id

    grow(sqlite_work, 200, last_asked_at=LONG_AGO)
    few = steps(sqlite_work, search)
    grow(sqlite_work, 1_800, last_asked_at=LONG_AGO)
    assert steps(sqlite_work, search) < 10 * few * 1.5


def test_counting_anew_reads_each_row_once(sqlite_work: UnitOfWork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recounting, "PAGE", 50)
    set_taxonomy(sqlite_work, ["甲"])
    some = grow(sqlite_work, 1)

    def more(count: int) -> None:
        rows = [asked(f"第{n}句", asked_at=datetime.now(UTC)) for n in range(count)]
        columns = ("question_id", "domain_id", "body_hash", "text_hash", "asked_at", "intents", "method", "topk")
        values = [
            {name: getattr(row, name) for name in columns} | {"text_id": some[0], "verdicts": [], "route_used": []}
            for row in rows
        ]
        sqlite_work(lambda session: session.execute(insert(UserQuestion), values))

    def count(session: Session) -> None:
        recounting.counted(session, 1)

    more(200)
    few = steps(sqlite_work, count)
    more(1_800)
    assert steps(sqlite_work, count) < 10 * few * 1.5


def test_a_slice_of_a_text_that_very_many_ask_counts_what_went_and_not_what_stays(
    work: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "MOST_RECOUNTED", 10)
    set_taxonomy(work, ["甲", "乙"])
    owner, now = domain_id(work), datetime.now(UTC)
    rows = [
        asked("大家都问", domain_id=owner, asked_at=now - timedelta(days=60 - number), train_allowed=number > 30)
        for number in range(40)
    ]
    work(intake.record, rows)
    work(folding.fold)
    ids = [row.question_id for row in rows]
    label(work, ids[-1], "甲")
    for days, left in ((50, 30), (30, 10), (25, 5), (20, 0)):
        condition = forgetting.asked_before(owner, now - timedelta(days=days, seconds=1))
        while work(forgetting.forget_slice, condition, limit=4).questions:
            pass
        found = work.read(
            lambda session: session.execute(
                select(Text.count, Text.first_asked_at, Text.last_asked_at, Text.question_id, Text.train_allowed)
            ).all()
        )
        if left:
            assert [tuple(row) for row in found] == [
                (left, now - timedelta(days=left + 20), now - timedelta(days=21), ids[-left], True)
            ]
        counted = work.read(recounting.counted, owner)
        levels = {key: value for key, value in counted.items() if key[1] in ("text", "labelled", "queued")}
        kept = work.read(lambda session: recounting.counters.of_domain(session, owner))
        assert {key: value for key, value in kept.items() if key[1] in ("text", "labelled", "queued")} == levels
