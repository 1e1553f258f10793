"""The audit trail: chained in one line, whoever seals, and every later change to it is named."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import AuditEvent
from app.services import audit, domains
from app.services.audit import COMMAND_LINE, Actor, Head
from tests.builders import column, domain_id
from tests.services.together import in_processes, in_threads

SECRET = b"the secret of an installation, long enough"


def write(work: UnitOfWork, count: int, start: int = 1) -> None:
    for number in range(start, start + count):
        work(
            audit.note, Actor("奥尔加", key_id="0123456789ab", trace_id="t-1"), "rule.change", f"rule {number}",
            domain_id=1, before={"keyword": "退货", "weight": 0.1 + 0.2, "none": None}, after={"n": number},
        )  # fmt: skip


def seal(work: UnitOfWork) -> Head | None:
    return work(audit.seal, secret=SECRET)


def faults(work: UnitOfWork, **more: Any) -> list[tuple[int, str]]:
    found = work.read(audit.verify, secret=SECRET, **more).faults
    return [(fault.sequence, fault.problem) for fault in found]


def tamper(work: UnitOfWork, *statements: Any) -> None:
    def run(session: Session) -> None:
        for statement in statements:
            session.execute(statement, execution_options={"synchronize_session": False})

    work(run)


def row(number: int) -> Any:
    return AuditEvent.sequence == number


def test_a_change_and_its_event_are_one_transaction(work: UnitOfWork) -> None:
    def half(session: Session) -> None:
        made = domains.create(session, "shop")
        audit.note(session, COMMAND_LINE, "domain.create", "shop", domain_id=made.id)
        session.flush()
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        work(half)
    assert column(work, AuditEvent.id) == []


def test_what_is_committed_is_chained_in_order_and_holds(work: UnitOfWork) -> None:
    assert seal(work) is None
    assert not work.read(audit.anything_to_seal)
    write(work, 5)
    assert work.read(audit.anything_to_seal)
    assert work.read(audit.verify, secret=SECRET).unsealed == 5
    head = seal(work)
    assert head is not None
    assert head.sequence == 5
    assert seal(work) is None
    write(work, 2, start=6)
    last = seal(work)
    assert last is not None
    assert work.read(audit.stands, head)
    assert column(work, AuditEvent.sequence) == [1, 2, 3, 4, 5, 6, 7]
    found = work.read(audit.verify, secret=SECRET, remembered=head)
    assert (found.head, found.unsealed, list(found.faults)) == (last, 0, [])


def test_another_secret_confirms_nothing(work: UnitOfWork) -> None:
    write(work, 2)
    seal(work)
    assert len(work.read(audit.verify, secret=b"another").faults) == 2


@pytest.mark.parametrize(
    "values",
    [{"actor": "eva"}, {"key_id": None}, {"action": "rule.delete"}, {"subject": "rule 9"}, {"before": None},
     {"after": {"n": 33}}, {"trace_id": "t-2"}, {"domain_id": 2}, {"domain_id": None},
     {"created_at": datetime(2020, 1, 1, tzinfo=UTC)},
     {"chain_hash": "f" * 64}],
    ids=lambda values: next(iter(values)),
)  # fmt: skip
def test_an_altered_row_is_named(sqlite_work: UnitOfWork, values: dict[str, Any]) -> None:
    write(sqlite_work, 4)
    seal(sqlite_work)
    tamper(sqlite_work, update(AuditEvent).where(row(3)).values(values))
    named = [number for number, _ in faults(sqlite_work)]
    # Who changes the hash itself breaks the next row too.
    assert named == ([3, 4] if "chain_hash" in values else [3])
    assert "altered" in faults(sqlite_work)[0][1]


def test_missing_and_reordered_rows_are_named_on_every_database(work: UnitOfWork) -> None:
    write(work, 8)
    seal(work)
    tamper(work, delete(AuditEvent).where(row(2)))
    assert faults(work) == [(2, "row 2 is missing")]
    tamper(work, delete(AuditEvent).where(row(3)))
    assert faults(work) == [(2, "rows 2 to 3 are missing")]
    # Two rows change places, each with the hash of its new place.
    first, second = column_of(work, 5), column_of(work, 6)
    for number, (subject, after) in ((6, first), (5, second)):
        tamper(work, update(AuditEvent).where(row(number)).values(subject=subject, after=after))
    assert [number for number, _ in faults(work)] == [2, 5, 6]
    tamper(work, update(AuditEvent).where(row(8)).values(actor="eva"))
    assert [number for number, _ in faults(work)] == [2, 5, 6, 8]


def column_of(work: UnitOfWork, number: int) -> Any:
    return work.read(
        lambda session: session.execute(select(AuditEvent.subject, AuditEvent.after).where(row(number))).one()
    )


def test_rows_that_change_their_numbers_are_named(sqlite_work: UnitOfWork) -> None:
    write(sqlite_work, 4)
    seal(sqlite_work)
    tamper(
        sqlite_work,
        update(AuditEvent).where(row(2)).values(sequence=99),
        update(AuditEvent).where(row(3)).values(sequence=2),
        update(AuditEvent).where(row(99)).values(sequence=3),
    )
    assert [number for number, _ in faults(sqlite_work)] == [2, 3, 4]


def test_a_trail_that_was_cut_off_holds_but_for_who_remembers_its_end(sqlite_work: UnitOfWork) -> None:
    write(sqlite_work, 5)
    head = seal(sqlite_work)
    assert head is not None
    tamper(sqlite_work, delete(AuditEvent).where(AuditEvent.sequence >= 4))
    assert faults(sqlite_work) == []
    assert faults(sqlite_work, remembered=head) == [(5, "the trail ends at row 3: rows at its end are missing")]
    # And when new rows have grown in their place.
    write(sqlite_work, 4, start=90)
    seal(sqlite_work)
    assert faults(sqlite_work) == []
    assert [number for number, _ in faults(sqlite_work, remembered=head)] == [5]


def test_a_row_that_was_taken_out_of_the_chain_to_be_sealed_anew_leaves_its_gap(sqlite_work: UnitOfWork) -> None:
    write(sqlite_work, 4)
    seal(sqlite_work)
    tamper(sqlite_work, update(AuditEvent).where(row(2)).values(sequence=None, chain_hash=None, actor="eva"))
    seal(sqlite_work)
    assert faults(sqlite_work) == [(2, "row 2 is missing")]


def test_many_seal_at_once_and_the_chain_is_one_line(work: UnitOfWork) -> None:
    write(work, 30)

    def act(number: int) -> None:
        if number % 2:
            work(audit.note, Actor(f"writer {number}"), "rule.create", str(number), domain_id=1)
        for _ in range(6):
            work(audit.seal, secret=SECRET, limit=4)

    in_threads(6, act)
    while seal(work):
        pass
    assert sorted(column(work, AuditEvent.sequence)) == list(range(1, 34))
    assert faults(work) == []


def test_a_row_that_another_chained_meanwhile_keeps_its_place(
    work: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    if work.engine.dialect.name == "sqlite":
        pytest.skip("a writer on SQLite has no meanwhile: it holds the only turn")
    write(work, 3)
    link, faster = audit._link, [b"the other's secret"]

    def meanwhile(secret: bytes, *rest: Any) -> str:
        while faster:
            work(audit.seal, secret=faster.pop())
        return link(secret, *rest)

    monkeypatch.setattr(audit, "_link", meanwhile)
    assert seal(work) is None
    assert work.read(audit.verify, secret=b"the other's secret").faults == []


def seal_and_write(work: UnitOfWork, number: int) -> None:
    for turn in range(5):
        work(audit.note, Actor(f"process {number}"), "rule.create", f"{number}-{turn}", domain_id=1)
        work(audit.seal, secret=SECRET, limit=3)


def test_processes_seal_at_once(database_url: str, work: UnitOfWork) -> None:
    in_processes(3, seal_and_write, database_url)
    while seal(work):
        pass
    assert sorted(column(work, AuditEvent.sequence)) == list(range(1, 16))
    assert faults(work) == []


def test_the_newest_events_come_first_and_only_of_the_domain_asked_for(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "shop")
    shop = domain_id(sqlite_work, "shop")
    write(sqlite_work, 2)
    sqlite_work(audit.note, COMMAND_LINE, "key.create", "k")
    sqlite_work(audit.note, COMMAND_LINE, "domain.create", "shop", domain_id=shop)

    def listed(**more: Any) -> list[tuple[str, str | None]]:
        return sqlite_work.read(
            lambda session: [(event.subject, name) for event, name in audit.listing(session, **more)]
        )

    assert listed() == [("shop", "shop"), ("k", None), ("rule 2", "default"), ("rule 1", "default")]
    assert listed(domain_id=shop) == [("shop", "shop")]
    assert listed(limit=2) == [("shop", "shop"), ("k", None)]
    newest = max(column(sqlite_work, AuditEvent.id))
    assert listed(limit=1, before=newest) == [("k", None)]
