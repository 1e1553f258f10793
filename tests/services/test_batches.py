"""A label is trained on once: frozen in one batch, held by one worker, and free again when that worker is lost."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import BatchItem, ModelVersion, Text, TrainingBatch, UserQuestion
from app.errors import (
    BatchState,
    ClaimLost,
    DomainNotFound,
    IntentError,
    NoTexts,
    NotFound,
    NothingNew,
    OneClass,
)
from app.services import annotations, batches, domains, folding, imports, intake, taxonomy
from app.services.batches import OpeningRule
from tests.builders import (
    ask,
    asked,
    batch_of,
    column,
    domain_id,
    domain_of,
    label,
    make_labelled_texts,
    make_version,
    set_taxonomy,
    text_of,
    trainable_text,
)
from tests.services.together import in_processes, in_threads


def _open(work: UnitOfWork, **changes: Any) -> TrainingBatch:
    return work(batches.open_batch, "default", **({"opened_by": "ana"} | changes))


def _running(work: UnitOfWork) -> batches.Claimed:
    """A batch in the hands of a worker."""
    work(batches.run, _open(work).batch_id)
    claimed = work(batches.claim_next, worker="w1")
    assert claimed is not None
    return claimed


def _roles(work: UnitOfWork, batch: TrainingBatch) -> Counter[str]:
    return Counter(item.role for item in work.read(batches.items, batch.id))


def _complete(session: Session, claimed: batches.Claimed, token: str | None = None) -> None:
    batches.complete(session, claimed.batch.id, token or claimed.token, outcome="passed", version=make_version(session))


def _silence(work: UnitOfWork, batch: TrainingBatch, *, seconds: float = 120) -> None:
    """Let the last heartbeat be so long ago."""

    def age(session: Session) -> None:
        row = batch_of(session, batch.batch_id)
        assert row.heartbeat_at is not None
        row.heartbeat_at -= timedelta(seconds=seconds)

    work(age)


def _finished_ago(work: UnitOfWork, seconds: float) -> None:
    def age(session: Session) -> None:
        session.execute(update(TrainingBatch).values(finished_at=datetime.now(UTC) - timedelta(seconds=seconds)))

    work(age)


# What is in a batch


def test_a_batch_freezes_new_labels_replay_and_gold(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 3, "乙": 2}, gold=1)
    first = _open(work, description="by hand", config={"seed": 7})
    assert (first.question_count, first.replay_count, first.gold_count) == (5, 0, 2)
    assert (first.batch_id, first.recipe, first.training_status) == ("default-b1", "ngram", "pending")
    assert (first.config, first.description) == ({"seed": 7}, "by hand")
    work(batches.run, first.batch_id)
    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None
    work(_complete, claimed)

    make_labelled_texts(work, {"甲": 2})
    second = _open(work)

    assert (second.question_count, second.replay_count, second.gold_count) == (2, 5, 2)
    assert _roles(work, second) == {"new": 2, "replay": 5, "gold": 2}
    assert second.items_digest != first.items_digest
    assert set(column(work, Text.training_status)) == {"used", "claimed", "skipped"}


def test_membership_stays_as_it_was_frozen(work: UnitOfWork) -> None:
    question_id, *_ = make_labelled_texts(work, {"甲": 3, "乙": 2})
    batch = _open(work)
    before = work.read(batches.items, batch.id)

    label(work, question_id, "乙")
    make_labelled_texts(work, {"甲": 2})
    set_taxonomy(work, ["丙"])

    assert work.read(batches.items, batch.id) == before
    assert work.read(batch_of, batch.batch_id).items_digest == batch.items_digest


def test_gold_is_never_a_member_to_train_on(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2}, gold=3)
    batch = _open(sqlite_work)
    gold = {text_id for text_id, is_gold in column(sqlite_work, Text.id, Text.is_gold) if is_gold}
    by_role = {item.text_id: item.role for item in sqlite_work.read(batches.items, batch.id)}
    assert {text_id for text_id, role in by_role.items() if role == "gold"} == gold
    assert len(gold) == 6


def test_what_must_not_be_trained_on_is_in_no_batch(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2, "丙": 2}, gold=1)
    (forbidden,) = ask(sqlite_work, trainable_text("甲"), train_allowed=False)
    label(sqlite_work, forbidden, "甲")
    (proposal,) = ask(sqlite_work, trainable_text("甲"))
    label(sqlite_work, proposal, taxonomy.OTHER, proposed_label="丁")
    skipped, waiting = ask(sqlite_work, trainable_text("甲"), trainable_text("甲"))
    for labeler in ("ana", "bo"):
        sqlite_work(annotations.skip, skipped, labeler_id=labeler)
    set_taxonomy(sqlite_work, ["甲", "乙"])

    items = sqlite_work.read(batches.items, _open(sqlite_work).id)

    assert Counter((item.role, item.label) for item in items) == {
        ("new", "甲"): 2,
        ("new", "乙"): 2,
        ("gold", "甲"): 1,
        ("gold", "乙"): 1,
    }
    assert sqlite_work.read(text_of, waiting).training_status == "pending"


def test_a_label_that_returns_is_trained_on_again(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2, "丙": 2})
    set_taxonomy(sqlite_work, ["甲", "乙"])
    _open(sqlite_work)
    set_taxonomy(sqlite_work, ["甲", "乙", "丙"])
    assert sqlite_work.read(batches.whether_due, sqlite_work.read(domain_of), OpeningRule(labels=2)).missing == 0


def test_texts_that_are_gone_are_left_out_of_the_items(sqlite_work: UnitOfWork) -> None:
    question_id, *_ = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    batch = _open(sqlite_work)

    def erase(session: Session) -> None:
        text_of(session, question_id).text = None

    sqlite_work(erase)
    assert len(sqlite_work.read(batches.items, batch.id)) == 3


def test_a_batch_needs_something_new(sqlite_work: UnitOfWork) -> None:
    with pytest.raises(NothingNew):
        _open(sqlite_work)
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    claimed = _running(sqlite_work)
    for retrain in (False, True):
        with pytest.raises(NothingNew):
            _open(sqlite_work, retrain=retrain)
    sqlite_work(_complete, claimed)

    with pytest.raises(NothingNew):
        _open(sqlite_work)
    again = _open(sqlite_work, retrain=True)
    assert (again.question_count, again.replay_count) == (0, 4)
    assert sqlite_work(batches.run, again.batch_id).training_status == "queued"


def test_a_batch_needs_two_labels_with_two_texts_each(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 5, "乙": 1}, gold=2)
    with pytest.raises(OneClass) as caught:
        _open(sqlite_work)
    assert caught.value.details == {"trainable_labels": 1}
    assert column(sqlite_work, TrainingBatch.id) == []
    assert set(column(sqlite_work, Text.claimed_by)) == {None}

    make_labelled_texts(sqlite_work, {"乙": 1})
    assert _open(sqlite_work).question_count == 7


def test_a_domain_without_texts_trains_on_imports_alone(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "secret", keep_text=False)
    with pytest.raises(NoTexts):
        sqlite_work(batches.open_batch, "secret", opened_by="ana")
    rows = [imports.ImportRow(line, trainable_text("甲"), "甲乙"[line % 2]) for line in range(4)]  # type: ignore[arg-type]
    sqlite_work(imports.take_in, "secret", rows, create_labels=True)
    assert sqlite_work(batches.open_batch, "secret", opened_by="ana").batch_id == "secret-b1"


def test_an_unknown_domain_or_batch_is_not_found(sqlite_work: UnitOfWork) -> None:
    with pytest.raises(DomainNotFound):
        sqlite_work(batches.open_batch, "nowhere", opened_by="ana")
    with pytest.raises(NotFound):
        sqlite_work(batches.run, "default-b9")


def test_batches_are_listed_the_newest_first_page_by_page(sqlite_work: UnitOfWork) -> None:
    made = []
    for _ in range(3):
        make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
        made.append(_open(sqlite_work).batch_id)
    owner = domain_id(sqlite_work)
    page = sqlite_work.read(batches.listing, owner, limit=2)
    assert [batch.batch_id for batch in page] == made[:0:-1]
    rest = sqlite_work.read(batches.listing, owner, limit=2, before=page[-1].id)
    assert [batch.batch_id for batch in rest] == made[:1]


# Never twice for the same labels


def _try_to_open(work: UnitOfWork, _: int = 0) -> str | None:
    try:
        return work(batches.open_batch, "default", opened_by="ana").batch_id
    except NothingNew:
        return None


def _open_when_due(work: UnitOfWork, _: int, rule: OpeningRule) -> str | None:
    batch = work(batches.open_due, "default", rule)
    return batch.batch_id if batch else None


def _held(work: UnitOfWork) -> Counter[int]:
    """How many batches hold each text as new."""
    return Counter(text_id for text_id, role in column(work, BatchItem.text_id, BatchItem.role) if role == "new")


def test_ten_threads_that_open_at_once_open_one_batch(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 4, "乙": 4})
    opened = in_threads(10, lambda _: _try_to_open(work))
    assert [batch_id for batch_id in opened if batch_id] == ["default-b1"]
    assert sorted(_held(work).values()) == [1] * 8


def test_eight_processes_that_open_at_once_open_one_batch(database_url: str, work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 4, "乙": 4})
    opened = in_processes(8, _try_to_open, database_url)
    assert [batch_id for batch_id in opened if batch_id] == ["default-b1"]
    assert sorted(_held(work).values()) == [1] * 8


def test_eight_clocks_that_find_enough_labels_at_once_open_one_batch(database_url: str, work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 5, "乙": 5})
    opened = in_processes(8, _open_when_due, database_url, OpeningRule(labels=10))
    assert [batch_id for batch_id in opened if batch_id] == ["default-b1"]
    assert work.read(batch_of, "default-b1").training_status == "queued"


def _open_and_fail(work: UnitOfWork, number: int) -> None:
    for _ in range(4):
        try:
            batch = work(batches.open_batch, "default", opened_by=str(number))
        except IntentError:
            continue
        work(batches.run, batch.batch_id)
        claimed = work(batches.claim_next, worker=str(number))
        if claimed is not None:
            work(batches.fail, claimed.batch.id, claimed.token, error="x")


def _check_the_books(work: UnitOfWork) -> None:
    """Each label that waits is in no live batch, and each claimed one in exactly the batch that claims it."""
    status = dict(column(work, TrainingBatch.id, TrainingBatch.training_status))
    frozen = {
        (batch_id, text_id): label_id
        for batch_id, text_id, label_id, role in column(
            work, BatchItem.batch_id, BatchItem.text_id, BatchItem.label_id, BatchItem.role
        )
        if role == "new"
    }
    texts = column(work, Text.id, Text.state, Text.training_status, Text.claimed_by, Text.label_id)
    for text_id, state, training_status, claimed_by, label_id in texts:
        assert (training_status == "claimed") == (claimed_by is not None)
        if claimed_by is not None:
            assert state == "labelled"
            assert status[claimed_by] in ("pending", "queued", "training", "evaluating")
            assert frozen[claimed_by, text_id] == label_id


def test_labels_are_in_one_batch_each_while_people_change_them(work: UnitOfWork) -> None:
    ids = make_labelled_texts(work, {"甲": 10, "乙": 10})

    def act(number: int) -> None:
        if number < 3:
            _open_and_fail(work, number)
        else:
            for question_id in ids[number::2]:
                label(work, question_id, "乙")
                label(work, question_id, "甲")

    in_threads(5, act)

    _check_the_books(work)


def _beside(work: UnitOfWork, beginning: str, act: Callable[[], object]) -> Callable[[], object]:
    """Begin `act` in a thread when a statement begins so, wait for it for a moment, and give the way to its result."""
    pool = ThreadPoolExecutor(1)
    begun: list[Future[object]] = []

    def meanwhile(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith(beginning) and not begun:
            begun.append(pool.submit(act))
            wait(begun, timeout=0.5)

    event.listen(work.engine, "before_cursor_execute", meanwhile)
    return lambda: begun[0].result(timeout=20)


def test_an_answer_that_is_given_while_a_batch_is_opened_is_not_taken_for_trained_on(work: UnitOfWork) -> None:
    question_id, *_ = make_labelled_texts(work, {"甲": 3, "乙": 2})
    answered = _beside(work, "INSERT INTO intent_batch_items", lambda: label(work, question_id, "乙"))

    batch = _open(work)
    answered()

    text = work.read(text_of, question_id)
    assert (text.training_status, text.claimed_by) == ("pending", None)
    assert {item.text_id: item.label for item in work.read(batches.items, batch.id)}[text.id] == "甲"
    _check_the_books(work)


def test_a_twin_that_is_folded_while_its_batch_ends_is_used_with_the_others(work: UnitOfWork) -> None:
    question_id, *_ = make_labelled_texts(work, {"甲": 2, "乙": 2})
    claimed = _running(work)
    twin = asked(work.read(text_of, question_id).text or "", domain_id=domain_id(work))
    work(intake.record, [twin])
    folded = _beside(work, "UPDATE intent_texts SET training_status", lambda: work(folding.fold))

    work(_complete, claimed)
    folded()

    assert set(column(work, UserQuestion.training_status)) == {"used"}


# Run, claim, report, end


def test_a_batch_goes_from_pending_to_completed(work: UnitOfWork) -> None:
    ids = make_labelled_texts(work, {"甲": 2, "乙": 2})
    batch = _open(work)
    assert work(batches.claim_next, worker="w") is None

    queued = work(batches.run, batch.batch_id, auto_extract_keywords=True)
    assert (queued.training_status, queued.auto_extract_keywords) == ("queued", True)
    assert queued.queued_at is not None

    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None
    assert (claimed.batch.training_status, claimed.batch.attempt, claimed.batch.worker) == ("training", 1, "w")
    assert claimed.domain.name == "default"
    assert work(batches.claim_next, worker="w") is None

    work(batches.report, batch.id, claimed.token, progress=0.5, stage="s" * 99, status="evaluating")
    row = work.read(batch_of, batch.batch_id)
    assert (row.training_status, row.progress, row.stage) == ("evaluating", 0.5, "s" * 64)

    work(_complete, claimed)
    row = work.read(batch_of, batch.batch_id)
    assert (row.training_status, row.outcome, row.model_version) == ("completed", "passed", "default-v1")
    assert (row.progress, row.running_key) == (1.0, None)
    assert row.finished_at is not None
    assert column(work, Text.training_status, Text.claimed_by) == [("used", None)] * 4
    assert column(work, UserQuestion.training_status) == ["used"] * 4
    assert len(ids) == 4


def test_a_failed_batch_gives_its_labels_back(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    claimed = _running(work)
    work(batches.fail, claimed.batch.id, claimed.token, error="e" * 5000)
    row = work.read(batch_of, claimed.batch.batch_id)
    assert (row.training_status, len(row.error or ""), row.running_key) == ("failed", 4000, None)
    assert column(work, Text.training_status, Text.claimed_by) == [("pending", None)] * 4


@pytest.mark.parametrize(("progress", "shown"), [(-1.0, 0.0), (2.0, 1.0)])
def test_progress_stays_within_its_range(sqlite_work: UnitOfWork, progress: float, shown: float) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    claimed = _running(sqlite_work)
    sqlite_work(batches.report, claimed.batch.id, claimed.token, progress=progress)
    assert sqlite_work.read(batch_of, claimed.batch.batch_id).progress == shown


def test_a_batch_can_be_run_once(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    claimed = _running(sqlite_work)
    with pytest.raises(BatchState, match="training"):
        sqlite_work(batches.run, claimed.batch.batch_id)
    sqlite_work(_complete, claimed)
    with pytest.raises(BatchState, match="completed"):
        sqlite_work(batches.run, claimed.batch.batch_id)


def test_a_stopped_worker_gives_the_batch_back_whole(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    claimed = _running(sqlite_work)
    sqlite_work(batches.requeue, claimed.batch.id, claimed.token)
    assert set(column(sqlite_work, Text.training_status)) == {"claimed"}

    again = sqlite_work(batches.claim_next, worker="w2")

    assert again is not None
    assert (again.batch.id, again.batch.attempt) == (claimed.batch.id, 2)
    assert again.token != claimed.token


def test_one_domain_trains_one_batch_at_a_time_and_another_domain_beside_it(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "shop")
    made = []
    for domain in ("default", "default", "shop"):
        make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2}, domain=domain)
        batch = sqlite_work(batches.open_batch, domain, opened_by="ana")
        made.append(sqlite_work(batches.run, batch.batch_id).batch_id)

    first, second = (sqlite_work(batches.claim_next, worker=name) for name in ("w1", "w2"))
    assert first is not None
    assert second is not None
    assert [first.batch.batch_id, second.batch.batch_id] == [made[0], made[2]]
    assert sqlite_work(batches.claim_next, worker="w3") is None

    sqlite_work(batches.fail, first.batch.id, first.token, error="x")
    third = sqlite_work(batches.claim_next, worker="w3")
    assert third is not None
    assert third.batch.batch_id == made[1]


def test_of_many_workers_at_once_one_gets_the_batch(work: UnitOfWork) -> None:
    for _ in range(2):
        make_labelled_texts(work, {"甲": 2, "乙": 2})
        work(batches.run, _open(work).batch_id)

    claims = in_threads(8, lambda number: work(batches.claim_next, worker=f"w{number}"))

    assert sum(claimed is not None for claimed in claims) == 1
    assert column(work, TrainingBatch.attempt) in ([1, 0], [0, 1])


# A claim that is lost


def test_a_batch_whose_worker_is_silent_is_failed_and_its_labels_wait(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    claimed = _running(work)
    assert work(batches.fail_lost, lost_after_seconds=60) == []

    _silence(work, claimed.batch)

    assert work(batches.fail_lost, lost_after_seconds=60) == [claimed.batch.batch_id]
    row = work.read(batch_of, claimed.batch.batch_id)
    assert row.training_status == "failed"
    assert "w1" in (row.error or "")
    assert column(work, Text.training_status) == ["pending"] * 4
    assert work(batches.fail_lost, lost_after_seconds=60) == []


def test_a_heartbeat_keeps_a_batch(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    claimed = _running(sqlite_work)
    _silence(sqlite_work, claimed.batch)
    sqlite_work(batches.report, claimed.batch.id, claimed.token)
    assert sqlite_work(batches.fail_lost, lost_after_seconds=60) == []


def test_a_worker_that_lost_its_batch_changes_nothing_any_more(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    lost = _running(work)
    _silence(work, lost.batch)
    work(batches.fail_lost, lost_after_seconds=60)
    work(batches.run, lost.batch.batch_id)
    present = work(batches.claim_next, worker="w2")
    assert present is not None
    assert (present.batch.id, present.batch.attempt) == (lost.batch.id, 2)
    before = work.read(batch_of, lost.batch.batch_id)

    with pytest.raises(ClaimLost):
        work(batches.report, lost.batch.id, lost.token, progress=0.9)
    with pytest.raises(ClaimLost):
        work(_complete, lost)
    work(batches.fail, lost.batch.id, lost.token, error="late")
    work(batches.requeue, lost.batch.id, lost.token)

    after = work.read(batch_of, lost.batch.batch_id)
    for name in ("training_status", "progress", "worker", "claim_token", "error", "attempt", "heartbeat_at"):
        assert getattr(after, name) == getattr(before, name), name
    assert column(work, ModelVersion.id) == []
    assert set(column(work, Text.training_status)) == {"claimed"}
    work(_complete, present)


def test_of_a_worker_and_those_who_think_it_dead_one_ends_the_batch(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    claimed = _running(work)
    _silence(work, claimed.batch)

    def act(number: int) -> bool:
        if number:
            return bool(work(batches.fail_lost, lost_after_seconds=60))
        try:
            work(_complete, claimed)
        except ClaimLost:
            return False
        return True

    completed, *_ = in_threads(4, act)

    row = work.read(batch_of, claimed.batch.batch_id)
    assert row.training_status == ("completed" if completed else "failed")
    assert set(column(work, Text.training_status)) == {"used" if completed else "pending"}


# Run again


def test_a_failed_batch_that_is_run_again_takes_the_same_labels(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    claimed = _running(work)
    work(batches.fail, claimed.batch.id, claimed.token, error="x")

    again = work(batches.run, claimed.batch.batch_id)

    assert (again.training_status, again.error, again.finished_at) == ("queued", None, None)
    assert column(work, Text.training_status, Text.claimed_by) == [("claimed", again.id)] * 4


def test_a_failed_batch_whose_label_was_changed_is_not_run_again(work: UnitOfWork) -> None:
    question_id, *_ = make_labelled_texts(work, {"甲": 2, "乙": 2})
    claimed = _running(work)
    work(batches.fail, claimed.batch.id, claimed.token, error="x")
    label(work, question_id, "乙")

    with pytest.raises(BatchState, match="changed"):
        work(batches.run, claimed.batch.batch_id)

    assert set(column(work, Text.training_status)) == {"pending"}
    assert work.read(batch_of, claimed.batch.batch_id).training_status == "failed"


def test_a_failed_batch_whose_labels_are_in_another_is_not_run_again(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    claimed = _running(sqlite_work)
    sqlite_work(batches.fail, claimed.batch.id, claimed.token, error="x")
    other = _open(sqlite_work)
    with pytest.raises(BatchState):
        sqlite_work(batches.run, claimed.batch.batch_id)
    assert set(column(sqlite_work, Text.claimed_by)) == {other.id}


def test_of_many_who_run_a_failed_batch_at_once_one_does(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    claimed = _running(work)
    work(batches.fail, claimed.batch.id, claimed.token, error="x")

    def act(_: int) -> bool:
        try:
            work(batches.run, claimed.batch.batch_id)
        except BatchState:
            return False
        return True

    assert sum(in_threads(6, act)) == 1
    assert set(column(work, Text.training_status)) == {"claimed"}


# When the clock opens one

SOON = OpeningRule(labels=4, share=0.5, small_labels=2, small_days=7.0)


def _due(work: UnitOfWork, rule: OpeningRule = SOON) -> Any:
    return work.read(batches.whether_due, work.read(domain_of), rule)


def _fail_one(work: UnitOfWork) -> TrainingBatch:
    batch = work(batches.open_due, "default", SOON)
    assert batch is not None
    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None
    work(batches.fail, claimed.batch.id, claimed.token, error="x")
    return batch


def test_the_clock_waits_for_enough_labels(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1}, gold=3)
    assert (_due(sqlite_work).open, _due(sqlite_work).missing) == (False, 1)
    assert sqlite_work(batches.open_due, "default", SOON) is None
    make_labelled_texts(sqlite_work, {"乙": 1})
    assert _due(sqlite_work).open


def test_few_labels_are_enough_once_they_are_old(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    rule = OpeningRule(labels=100, small_labels=3, small_days=7.0)
    assert not _due(work, rule).open

    def age(session: Session) -> None:
        session.execute(update(Text).values(labelled_at=datetime.now(UTC) - timedelta(days=7.01)))

    work(age)
    assert _due(work, rule).open


def test_the_share_counts_what_was_labelled_before(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 10, "乙": 10})
    sqlite_work(_complete, _running(sqlite_work))
    make_labelled_texts(sqlite_work, {"甲": 9})
    assert (_due(sqlite_work).open, _due(sqlite_work).missing) == (False, 1)


def test_the_clock_waits_while_a_batch_is_queued_or_running(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    claimed = _running(sqlite_work)
    make_labelled_texts(sqlite_work, {"甲": 4, "乙": 4})
    assert "queued or running" in _due(sqlite_work).reason
    sqlite_work(_complete, claimed)
    assert _due(sqlite_work).open


def test_the_clock_does_not_open_what_would_be_refused(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 4})
    assert (_due(sqlite_work).open, _due(sqlite_work).reason[:21]) == (False, "fewer than two labels")
    assert sqlite_work(batches.open_due, "default", SOON) is None


def test_labels_that_another_batch_holds_do_not_make_a_second_class(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    _open(sqlite_work)
    make_labelled_texts(sqlite_work, {"甲": 4})
    assert sqlite_work(batches.open_due, "default", SOON) is None


def test_a_failed_batch_is_tried_again_after_its_delays_and_then_only_with_a_new_label(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    for delay in SOON.retry_delays_seconds:
        _fail_one(work)
        _finished_ago(work, delay - 30)
        assert "tried again at" in _due(work).reason
        assert work(batches.open_due, "default", SOON) is None
        _finished_ago(work, delay + 1)
        assert _due(work).open
    last = _fail_one(work)
    _finished_ago(work, 10 * 86_400)
    assert "4 times in a row" in _due(work).reason
    assert last.batch_id in _due(work).reason

    make_labelled_texts(work, {"甲": 1})
    assert _due(work).open


def test_another_answer_to_a_failed_batch_is_a_new_label_too(sqlite_work: UnitOfWork) -> None:
    question_id, *_ = make_labelled_texts(sqlite_work, {"甲": 3, "乙": 2})
    rule = OpeningRule(labels=4, retry_delays_seconds=())
    sqlite_work(batches.open_due, "default", rule)
    claimed = sqlite_work(batches.claim_next, worker="w")
    assert claimed is not None
    sqlite_work(batches.fail, claimed.batch.id, claimed.token, error="x")
    assert not _due(sqlite_work, rule).open
    label(sqlite_work, question_id, "乙")
    assert _due(sqlite_work, rule).open


def test_a_batch_that_succeeds_ends_the_row_of_failures(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    _fail_one(sqlite_work)
    sqlite_work(_complete, _running(sqlite_work))
    make_labelled_texts(sqlite_work, {"甲": 4})
    assert _due(sqlite_work).open
