"""A bounded unit of work sees, changes and deletes nothing of another domain, also where a service forgets to ask."""

# ruff: noqa: ARG005 - every statement of the table is called alike

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import CursorResult, Engine, delete, exists, func, insert, literal, select, text, union_all, update
from sqlalchemy.orm import Session, aliased

from app.db.scope import OutOfScope
from app.db.session import UnitOfWork, connect, database_time
from app.db.tables import Annotation, Base, BatchItem, Domain, Label, Lease, Replica, Text, UserQuestion, now
from app.errors import NotFound
from app.services import domains, intake, queue, runs, statistics, taxonomy
from tests.builders import ask, column, domain_id, label, make_labelled_texts, set_taxonomy, trainable_text

# Tables without a domain_id, and why a bounded session may reach them.
OF_NO_DOMAIN = {
    "Domain",  # bounded by its own id
    "BatchItem",  # reached through its batch and its text, which are bounded
    "ApiKey",  # no route reads it
    "JobRun",  # the clock's; holds counts and reasons of all domains, and no route reads it
    "Tombstone",  # no route reads it
}


class World:
    """Two domains with the same things in each; the bounded unit of work may see the first."""

    def __init__(self, engine: Engine) -> None:
        self.all = UnitOfWork(engine)
        self.all(domains.create, "other")
        self.mine, self.foreign = domain_id(self.all), domain_id(self.all, "other")
        self.work = UnitOfWork(engine, domain_ids=frozenset({self.mine}))
        self.questions = {
            name: make_labelled_texts(self.all, {"甲": 2}, domain=name)
            + ask(self.all, trainable_text(name), domain=name)
            for name in ("default", "other")
        }


@pytest.fixture
def world(sqlite_url: str) -> Any:
    engine = connect(sqlite_url)
    yield World(engine)
    engine.dispose()


def test_every_table_is_bounded_or_has_a_reason_not_to_be() -> None:
    unbounded = {m.class_.__name__ for m in Base.registry.mappers if "domain_id" not in m.columns}
    assert unbounded == OF_NO_DOMAIN


Read = Callable[[Session, World], Any]
Twin = aliased(UserQuestion)

# Statements that forget to ask for a domain, and what they give where only one domain can be seen.
FORGETFUL: dict[str, tuple[Read, Any]] = {
    "rows": (lambda s, w: {q.domain_id for q in s.scalars(select(UserQuestion))}, lambda w: {w.mine}),
    "columns": (lambda s, w: set(s.scalars(select(Text.domain_id))), lambda w: {w.mine}),
    "count": (lambda s, w: s.scalar(select(func.count(UserQuestion.question_id))), lambda w: 3),
    "count of a table": (lambda s, w: s.scalar(select(func.count()).select_from(Annotation)), lambda w: 2),
    "names": (lambda s, w: list(s.scalars(select(Domain.name))), lambda w: ["default"]),
    "get": (lambda s, w: s.get(UserQuestion, w.questions["other"][0]), lambda w: None),
    "get, locked and anew": (
        lambda s, w: s.get(Domain, w.foreign, with_for_update={"key_share": True}, populate_existing=True),
        lambda w: None,
    ),
    "alias": (lambda s, w: set(s.scalars(select(Twin.domain_id))), lambda w: {w.mine}),
    "inner select": (
        lambda s, w: set(s.scalars(select(Label.id).where(Label.id.in_(select(Annotation.label_id))))) & _labels(w),
        lambda w: set(),
    ),
    "exists": (
        lambda s, w: s.scalar(select(exists(select(Text.id).where(Text.domain_id == w.foreign)))),
        lambda w: False,
    ),
    "scalar select": (
        lambda s, w: s.scalar(select(literal(1)).where(select(func.count(Lease.text_id)).scalar_subquery() == 0)),
        lambda w: 1,
    ),
    "outer join": (
        lambda s, w: s.execute(
            select(Domain.name, func.count(Text.id)).outerjoin(Text, Text.domain_id == Domain.id).group_by(Domain.name)
        ).all(),
        lambda w: [("default", 3)],
    ),
    "join from a table without a domain": (
        lambda s, w: s.execute(select(BatchItem).join(Text, Text.id == BatchItem.text_id)).all(),
        lambda w: [],
    ),
    "union": (
        lambda s, w: set(s.scalars(union_all(select(Text.domain_id), select(Label.domain_id)))),
        lambda w: {w.mine},
    ),
    "subquery": (
        lambda s, w: s.scalar(select(func.count()).select_from(select(Text.id).subquery())),
        lambda w: 3,
    ),
    "cte": (lambda s, w: s.scalar(select(func.count()).select_from(select(Text.id).cte())), lambda w: 3),
}


def _labels(world: World) -> set[int]:
    return set(world.all.read(lambda s: list(s.scalars(select(Label.id).where(Label.domain_id == world.foreign)))))


@pytest.mark.parametrize("name", FORGETFUL)
def test_a_statement_that_forgets_the_domain_sees_no_other(world: World, name: str) -> None:
    statement, expected = FORGETFUL[name]
    assert world.work.read(statement, world) == expected(world)
    # And the same statement, compiled a moment ago, sees the other domain's when that is the one allowed.
    other = UnitOfWork(world.all.engine, domain_ids=frozenset({world.foreign}))
    if name in ("rows", "columns", "alias", "union"):
        assert other.read(statement, world) == {world.foreign}
        assert world.work.read(statement, world) == {world.mine}
        assert world.all.read(statement, world) == {world.mine, world.foreign}


def test_who_may_see_no_domain_sees_none(world: World) -> None:
    nothing = UnitOfWork(world.all.engine, domain_ids=frozenset())
    assert nothing.read(lambda session: list(session.scalars(select(UserQuestion.question_id)))) == []


def test_update_and_delete_reach_no_other_domain(world: World) -> None:
    def change(session: Session) -> tuple[int, int]:
        changed = session.execute(update(Text).values(reason="changed"))
        gone = session.execute(delete(Annotation).where(Annotation.id.not_in(select(Text.annotation_id))))
        assert isinstance(changed, CursorResult)
        assert isinstance(gone, CursorResult)
        return changed.rowcount, gone.rowcount

    assert world.work(change) == (3, 0)
    owners = {owner for owner, reason in column(world.all, Text.domain_id, Text.reason) if reason == "changed"}
    assert owners == {world.mine}


def test_nothing_is_written_into_another_domain(world: World) -> None:
    def add(session: Session) -> None:
        session.add(Label(domain_id=world.foreign, path="新"))
        session.flush()

    def in_bulk(session: Session) -> None:
        session.execute(insert(Label), [{"domain_id": world.foreign, "path": "新"}])

    def within_the_statement(session: Session) -> None:
        session.execute(insert(Label).values(domain_id=world.foreign, path="新"))

    def move(session: Session) -> None:
        session.scalars(select(Label)).first().domain_id = world.foreign  # type: ignore[union-attr]

    def found(session: Session) -> None:
        domains.create(session, "third")

    for wrong in (add, in_bulk, within_the_statement, move, found):
        with pytest.raises(OutOfScope):
            world.work(wrong)
    world.work(lambda session: session.add(Label(domain_id=world.mine, path="新")))
    assert sorted(column(world.all, Label.domain_id, Label.path)) == [
        (world.mine, "新"), (world.mine, "甲"), (world.foreign, "甲"),
    ]  # fmt: skip


def test_a_statement_that_cannot_be_bounded_is_refused(world: World) -> None:
    for statement in (text("SELECT * FROM intent_texts"), select(Text.__table__.c.id)):
        with pytest.raises(OutOfScope):
            world.work.read(lambda session, statement=statement: session.execute(statement))


def test_services_work_as_ever_within_bounds(world: World) -> None:
    def all_of_it(session: Session) -> Any:
        domain = domains.locked(session, "default")
        session.refresh(domain)
        taken = queue.unlabelled(session, domain, limit=5, labeler_id="ana", strategy=None, lease_seconds=60)
        question = intake.find(session, taken[0].question_id)
        session.refresh(question, with_for_update=True)
        figures = statistics.of_domain(session, domain, statistics.batches.OpeningRule())
        return len(taken), figures["questions"], taxonomy.active(session, domain.id)[0].path

    world.all(lambda session: session.add(Replica(replica="clock", domain_id=0, role="clock", reported_at=now())))
    assert world.work(all_of_it) == (1, 3, "甲")
    assert world.work.read(lambda session: len(runs.replicas(session, role="clock", alive_seconds=60))) == 1


def test_bounds_hold_on_every_database(work: UnitOfWork, engine: Engine) -> None:
    work(domains.create, "other")
    set_taxonomy(work, ["甲"])
    [foreign], [own] = ask(work, "别处的问题", domain="other"), ask(work, trainable_text("我的问题"))
    bounded = UnitOfWork(engine, domain_ids=frozenset({domain_id(work)}))
    assert bounded.read(lambda session: list(session.scalars(select(UserQuestion.question_id)))) == [own]
    assert bounded.read(lambda session: session.get(UserQuestion, foreign)) is None
    bounded(lambda session: session.execute(update(Text).values(reason="changed")))
    assert sorted(column(work, Text.reason), key=str).count("changed") == 1
    assert bounded.read(database_time)
    taken = bounded(
        lambda session: queue.unlabelled(
            session, domains.find(session, "default"), limit=5, labeler_id="ana", strategy=None, lease_seconds=60
        )
    )
    assert [item.question_id for item in taken] == [own]
    assert label(bounded, own, "甲").twins == 1
    with pytest.raises(NotFound):
        label(bounded, foreign, "甲")
