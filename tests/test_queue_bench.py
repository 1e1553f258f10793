"""The rows on which the queue is measured are those that the services would have left."""

from dataclasses import fields
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, connect
from app.db.tables import Annotation, Lease, Text, UserQuestion
from app.intent.questions import AskedQuestion
from app.intent.text import MaskedText
from app.services import counters, folding, intake, queue, recounting
from bench import worlds
from tests.builders import column, domain_of, set_taxonomy

SAME = (
    "id", "text_hash", "text", "count", "first_asked_at", "last_asked_at", "question_id", "is_gold", "intents",
    "confidence", "topk", "scored_by", "train_allowed",
)  # fmt: skip
OF_THE_QUEUE = ("priority", "reason", "strategy", "state", "training_status")


def _asked(row: UserQuestion) -> AskedQuestion:
    values = {field.name: getattr(row, field.name) for field in fields(AskedQuestion) if field.name != "text"}
    return AskedQuestion(text=MaskedText(row.question or ""), **values)


def test_texts_are_as_folding_makes_them(sqlite_url: str, tmp_path: Path) -> None:
    built = connect(f"sqlite:///{tmp_path / 'built.db'}")
    world = worlds.build(built, 600)
    source, fresh = UnitOfWork(built), UnitOfWork(connect(sqlite_url))
    set_taxonomy(fresh, worlds.LABELS)
    rows = source.read(lambda session: session.scalars(select(UserQuestion)).all())
    assert len(rows) == world.questions
    fresh(intake.record, [_asked(row) for row in rows])
    while fresh(folding.fold):
        pass

    def told(session: Session, *names: str) -> dict[str, tuple[object, ...]]:
        found = session.scalars(select(Text)).all()
        return {text.text_hash: tuple(getattr(text, name) for name in names) for text in found}

    same = [name for name in SAME if name != "id"]
    assert source.read(told, *same) == fresh.read(told, *same)
    waiting, folded = source.read(told, "is_gold", *OF_THE_QUEUE), fresh.read(told, "is_gold", *OF_THE_QUEUE)
    asked_next = [
        key for key, (is_gold, *_, state, _status) in waiting.items() if not is_gold and state == "unlabelled"
    ]
    assert len(asked_next) > 100
    assert {key: waiting[key] for key in asked_next} == {key: folded[key] for key in asked_next}
    for engine in (built, fresh.engine):
        engine.dispose()


def test_a_world_is_counted_and_its_queue_covered(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'built.db'}")
    world = worlds.build(engine, 4_000)
    work = UnitOfWork(engine)
    kept = work.read(lambda session: counters.of_domain(session, 1))
    assert kept == work.read(recounting.counted, 1)
    assert work.read(queue.length, 1) == world.waiting
    assert len(column(work, Lease.text_id)) == worlds.HELD + worlds.RAN_OUT
    assert column(work, Annotation.kind).count("skip") == worlds.SKIPPED
    free = work.read(lambda session: queue.unlabelled(session, domain_of(session), limit=2_000))
    assert len(free) == world.waiting - worlds.HELD
    engine.dispose()
