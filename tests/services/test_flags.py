"""A flag asks somebody to look; it changes nothing else."""

import pytest
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, Lease
from app.errors import NothingToUndo
from app.services import annotations, counters, counting, flags, forgetting, queue, recounting
from tests.builders import ask, column, domain_of, label, set_taxonomy, text_of, trainable_text


def _texts(work: UnitOfWork, count: int) -> list[str]:
    set_taxonomy(work, ["甲", "乙"])
    return ask(work, *[trainable_text("甲") for _ in range(count)])


def _flagged(session: Session) -> list[str | None]:
    found = flags.page(session, domain_of(session).id, before=None, limit=10)
    return [text.question_id for text in found]


def _counted(work: UnitOfWork) -> int:
    """How many are flagged: the counter and the rows say the same."""
    found = work.read(lambda session: domain_of(session).id)
    key = (counters.TOTAL, counting.FLAGGED, "")
    kept = work.read(counters.of_domain, found).get(key, 0)
    assert kept == work.read(recounting.counted, found).get(key, 0)
    return kept


def test_a_flag_keeps_state_and_lease_and_lists_the_question(work: UnitOfWork) -> None:
    first, second = _texts(work, 2)
    work(lambda session: queue.unlabelled(session, domain_of(session), limit=5, labeler_id="ana"))
    before = column(work, Lease.text_id, Lease.token)
    for labeler in ("ana", "ana", "bo"):
        assert work(flags.flag, first, labeler_id=labeler, reason="two questions").state == "unlabelled"
    label(work, second, "甲")
    work(flags.flag, second, labeler_id="bo")

    # The newest texts first; those of one moment were made in the order of their hashes.
    assert work.read(_flagged) == sorted((first, second), key=lambda one: -work.read(text_of, one).id)
    assert column(work, Annotation.kind).count("flag") == 3
    assert [row for row in before if row in column(work, Lease.text_id, Lease.token)]
    assert [work.read(text_of, one).state for one in (first, second)] == ["unlabelled", "labelled"]
    assert _counted(work) == 2


def test_who_has_looked_takes_all_flags_down(work: UnitOfWork) -> None:
    [question_id] = _texts(work, 1)
    for labeler in ("ana", "bo"):
        work(flags.flag, question_id, labeler_id=labeler)
    assert not work(flags.lower, question_id, labeler_id="cy").is_flagged
    assert work.read(_flagged) == []
    with pytest.raises(NothingToUndo):
        work(flags.lower, question_id, labeler_id="cy")
    assert _counted(work) == 0
    # Flagged again, it is there again.
    work(flags.flag, question_id, labeler_id="ana")
    assert work.read(_flagged) == [question_id]


def test_a_label_or_an_undo_leaves_the_flag(sqlite_work: UnitOfWork) -> None:
    [question_id] = _texts(sqlite_work, 1)
    sqlite_work(flags.flag, question_id, labeler_id="ana")
    label(sqlite_work, question_id, "甲", by="bo")
    assert sqlite_work.read(_flagged) == [question_id]
    assert sqlite_work(annotations.release, question_id, labeler_id="bo").is_flagged


def test_a_forgotten_question_is_flagged_no_more_and_its_reason_is_gone(sqlite_work: UnitOfWork) -> None:
    kept, gone = _texts(sqlite_work, 2)
    for question_id in (kept, gone):
        sqlite_work(flags.flag, question_id, labeler_id="ana", reason="quotes what was asked")
    sqlite_work(forgetting.forget_slice, forgetting.of_question(gone))
    assert sqlite_work.read(_flagged) == [kept]
    assert sorted(column(sqlite_work, Annotation.reason), key=str) == [None, "quotes what was asked"]
    assert _counted(sqlite_work) == 1
