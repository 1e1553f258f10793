"""The disk of the database is full: it answers, it reads, it says so, and goes on by itself when there is room."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, UserQuestion
from tests.api.conftest import LABELS, LOOP, Service


@contextmanager
def full(service: Service) -> Iterator[None]:
    """The file may not grow by a page: SQLite says what it says of a disk without room."""
    engine = service.services.engine

    def limit(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {cursor.execute('PRAGMA page_count').fetchone()[0]}")
        cursor.close()

    def lift(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA max_page_count = 1073741823")
        cursor.close()

    event.listen(engine, "checkout", limit)
    try:
        yield
    finally:
        event.remove(engine, "checkout", limit)
        event.listen(engine, "checkout", lift)


def _count(session: Session, mapped: type[Any]) -> int:
    return session.scalar(select(func.count()).select_from(mapped)) or 0


def test_answers_go_on_labels_are_refused_whole_and_all_is_well_when_there_is_room(service: Service) -> None:
    service.put_taxonomy()
    first = service.log("手机开不了机")
    answers: list[dict[str, Any]] = []
    with full(service):
        # A page has room for a few.
        while not (answers and answers[-1].get("logged")):
            assert len(answers) < 200
            answers.append(service.classify(f"{len(answers)} " + "长" * 2000))
        assert service.get(f"{LOOP}/stats").status_code == 200
        assert service.get(f"{LOOP}/questions/{first}").status_code == 200
        assert service.get("/readyz").json()["status"] == "degraded"
        labels = service.services.work.read(_count, Annotation)
        refused = [service.label(first, LABELS[n % 2], labeler_id="ana") for n in range(400)]
        refused = [answer for answer in refused if answer.status_code != 200]
        many = service.post(f"{LOOP}/questions", {"questions": [{"question": "长" * 2000 + str(n)} for n in range(50)]})
        assert refused
        for answer in (*refused, many):
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert len(refused) + service.services.work.read(_count, Annotation) - labels == 400
    service.wait_for(lambda: service.get("/readyz").json()["status"] == "ready", 20)
    assert "logged" not in service.classify("有地方了")
    assert service.services.work.read(_count, UserQuestion) == len(answers) + 2
    assert service.label(first, LABELS[1], labeler_id="bo").status_code in (200, 409)
