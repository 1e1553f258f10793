"""Every request is in the log once, whoever repeats it and however many at once."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from app.db.session import UnitOfWork, transaction
from app.db.tables import UserQuestion
from app.errors import NotFound, RequestIdConflict
from app.intent.questions import AskedQuestion
from app.services import domains, intake
from tests.builders import asked, column, domain_id
from tests.services.together import in_processes, in_threads


def _id(logged: intake.Logged) -> str:
    assert not isinstance(logged, RequestIdConflict)
    return logged.question_id


def test_record_keeps_all_that_was_asked_and_answered(work: UnitOfWork) -> None:
    moment = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
    question = asked(
        "开不了机🙂 é",
        domain_id=domain_id(work),
        request_id="r 1",
        asked_at=moment,
        intents=["硬件故障 > 无法开机"],
        confidence=0.25,
        method="local_model",
        topk=[["硬件故障 > 无法开机", 0.25], ["退款", 0.125]],
        verdicts=[{"tier": "discriminative", "label": "退款"}],
        route_used=["rules", "discriminative"],
        trigger_check=False,
        model_version="default-v1",
        latency_ms=1.5,
        train_allowed=False,
        user_hash="ab",
    )
    assert work(intake.record, [question]) == [question]

    row = work.read(intake.find, question.question_id)

    for name in AskedQuestion.__dataclass_fields__:
        assert getattr(row, "question" if name == "text" else name) == getattr(question, name), name
    assert (row.is_labeled, row.training_status, row.text_id) == (False, "pending", None)


def test_find_knows_no_other_question(sqlite_work: UnitOfWork) -> None:
    with pytest.raises(NotFound):
        sqlite_work.read(intake.find, "nothing")


def test_a_repeated_request_gets_what_was_answered_first(work: UnitOfWork) -> None:
    first = asked("你好", domain_id=domain_id(work), request_id="r1", confidence=0.5)
    again = asked("你好", domain_id=domain_id(work), request_id="r1", confidence=0.75)
    work(intake.record, [first])

    (answer,) = work(intake.record, [again])

    assert isinstance(answer, UserQuestion)
    assert (answer.question_id, answer.confidence) == (first.question_id, 0.5)
    assert column(work, UserQuestion.question_id) == [first.question_id]


def test_a_request_id_with_another_body_is_a_conflict_for_that_item_alone(sqlite_work: UnitOfWork) -> None:
    sqlite_work(intake.record, [asked("你好", request_id="r1")])
    results = sqlite_work(intake.record, [asked("甲"), asked("再见", request_id="r1"), asked("乙", request_id="r2")])
    assert [isinstance(result, RequestIdConflict) for result in results] == [False, True, False]
    assert sorted(column(sqlite_work, UserQuestion.question)) == sorted(["你好", "甲", "乙"])


def test_one_list_that_repeats_a_request_logs_it_once(sqlite_work: UnitOfWork) -> None:
    one, same, other = (asked(text, request_id="r1") for text in ("你好", "你好", "再见"))
    results = sqlite_work(intake.record, [one, same, other])
    assert _id(results[0]) == _id(results[1]) == one.question_id
    assert isinstance(results[2], RequestIdConflict)
    assert column(sqlite_work, UserQuestion.question_id) == [one.question_id]


def test_a_request_id_belongs_to_its_domain(sqlite_work: UnitOfWork) -> None:
    shop = sqlite_work(domains.create, "shop").id
    sqlite_work(intake.record, [asked("你好", request_id="r1"), asked("再见", domain_id=shop, request_id="r1")])
    assert len(column(sqlite_work, UserQuestion.question_id)) == 2


def test_questions_without_a_request_id_are_never_duplicates(sqlite_work: UnitOfWork) -> None:
    sqlite_work(intake.record, [asked("你好"), asked("你好")])
    assert len(column(sqlite_work, UserQuestion.question_id)) == 2


def test_requests_that_differ_by_case_or_accent_are_two(work: UnitOfWork) -> None:
    owner = domain_id(work)
    work(intake.record, [asked("甲", domain_id=owner, request_id=name) for name in ("e", "é", "E")])
    assert len(column(work, UserQuestion.question_id)) == 3


def test_nothing_to_record_is_nothing(sqlite_work: UnitOfWork) -> None:
    assert sqlite_work(intake.record, []) == []


def test_concurrent_duplicates_from_threads_are_one_row(work: UnitOfWork, caplog: pytest.LogCaptureFixture) -> None:
    owner = domain_id(work)
    caplog.set_level(logging.INFO, "app.db.session")

    def record(number: int) -> list[str]:
        # In different orders: written as they come, two transactions would wait for each other until one is ended.
        names = [f"r{name}" for name in range(12)][:: 1 if number % 2 else -1]
        rows = [asked(f"问 {name}", domain_id=owner, request_id=name) for name in names]
        return sorted(_id(logged) for logged in work(intake.record, rows))

    answers = in_threads(8, record)

    assert all(answer == answers[0] for answer in answers)
    assert len(column(work, UserQuestion.question_id)) == 12
    if work.engine.dialect.name == "postgresql":
        assert "Deadlock" not in caplog.text


def test_questions_are_logged_while_a_batch_is_opened_or_a_version_flipped(work: UnitOfWork) -> None:
    if work.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time, whatever it writes")
    owner = domain_id(work)
    with transaction(work.engine) as session, ThreadPoolExecutor(1) as pool:
        domains.locked(session, "default").batch_seq += 1
        session.flush()
        pool.submit(work, intake.record, [asked("你好", domain_id=owner)]).result(timeout=60)
    assert column(work, UserQuestion.question) == ["你好"]


def _record_alike(work: UnitOfWork, number: int, owner: int) -> list[str]:
    return [
        _id(work(intake.record, [asked(f"问 {name}", domain_id=owner, request_id=f"r{name}")])[0]) for name in range(25)
    ]


def test_concurrent_duplicates_from_processes_are_one_row(database_url: str, work: UnitOfWork) -> None:
    answers = in_processes(4, _record_alike, database_url, domain_id(work))
    assert all(answer == answers[0] for answer in answers)
    assert len(column(work, UserQuestion.question_id)) == 25
