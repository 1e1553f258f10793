"""Services as processes on one database of each kind: one contract, whoever answers, and a proper end."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from app.db.session import connect
from tests.api.conftest import LOOP, Process, process, wait_for
from tests.serving.artifacts import LABELS


def _count(url: str, table: str) -> int:
    engine = connect(url)
    with engine.connect() as connection:
        found: int = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
    engine.dispose()
    return found


def test_two_processes_are_one_service(database_url: str, tmp_path: Path) -> None:
    with process(database_url, tmp_path / "a") as a, process(database_url, tmp_path / "b") as b:
        _one_request_id_is_one_row(a, b, database_url)
        _what_one_makes_the_other_knows(a, b)
        _bulk_in_both_at_once(a, b, database_url)


def _one_request_id_is_one_row(a: Process, b: Process, url: str) -> None:
    barrier = threading.Barrier(20)

    def ask(number: int) -> httpx.Response:
        barrier.wait()
        return (a, b)[number % 2].http.post("/classify", json={"text": "手机开不了机 🙂", "request_id": "race"})

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert _count(url, "intent_user_questions") == 1


def _what_one_makes_the_other_knows(a: Process, b: Process) -> None:
    made = a.http.post(f"{LOOP}/domains", json={"name": "fresh"})
    assert made.status_code == 201
    assert b.http.post("/classify", json={"text": "你好", "domain": "fresh"}).status_code == 200
    assert b.http.put(f"{LOOP}/taxonomy", params={"domain": "fresh"}, json=list(LABELS)).status_code == 200
    question = b.http.post(f"{LOOP}/questions", json={"question": "退货", "domain": "fresh"}).json()["question_id"]
    label = {"correct_intent": [LABELS[1]], "labeler_id": "ana"}
    assert a.http.post(f"{LOOP}/questions/{question}/label", json=label).json()["path"] == ["售后服务", "退货"]
    assert b.http.get(f"{LOOP}/questions/{question}").json()["correct_intent"] == [LABELS[1]]
    waiting = wait_for(
        lambda: (
            a.http.get(f"{LOOP}/questions/unlabeled", params={"domain": "fresh", "labeler_id": "bo"}).json()["items"]
            or a.http.get(f"{LOOP}/stats", params={"domain": "fresh"}).json()["gold_candidates"]
        )
    )
    assert waiting


def _bulk_in_both_at_once(a: Process, b: Process, url: str) -> None:
    before = _count(url, "intent_user_questions")
    questions = [{"question": f"第{i}句", "request_id": f"bulk-{i}"} for i in range(300)]

    def send(service: Process) -> list[str]:
        answer = service.http.post(f"{LOOP}/questions", json={"questions": questions})
        assert answer.status_code == 200, answer.text
        return [result["status"] for result in answer.json()["results"]]

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(send, (a, b, a, b)))
    created = sum(status == "created" for answer in statuses for status in answer)
    assert created == 300
    assert _count(url, "intent_user_questions") == before + 300


def test_sigterm_answers_what_is_in_flight_and_ends_with_0(sqlite_url: str, tmp_path: Path) -> None:
    """Twenty questions wait for the database's write lock when the signal comes."""
    other = connect(sqlite_url)
    with process(sqlite_url, tmp_path) as running, ThreadPoolExecutor(20) as pool:
        lock = other.connect()
        lock.begin()
        asking = [pool.submit(running.http.post, "/classify", json={"text": f"第{i}句"}) for i in range(20)]
        time.sleep(0.5)
        assert not any(asked.done() for asked in asking)
        running.popen.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        lock.close()
        assert [asked.result().status_code for asked in asking] == [200] * 20
        assert running.popen.wait(timeout=15) in (0, -signal.SIGTERM)
    other.dispose()
    # Those that had waited for too long were answered from the disk, and the next process hands them on.
    with process(sqlite_url, tmp_path):
        wait_for(lambda: _count(sqlite_url, "intent_user_questions") == 20)


@pytest.mark.parametrize("killed_after", [0.0, 0.4])
def test_what_was_answered_survives_kill_9(sqlite_url: str, tmp_path: Path, killed_after: float) -> None:
    answered: list[str] = []

    def ask(http: httpx.Client) -> None:
        while True:
            try:
                answer = http.post("/classify", json={"text": f"第{time.monotonic_ns()}句"})
            except httpx.HTTPError:
                return
            answered.append(answer.json()["question_id"])

    with process(sqlite_url, tmp_path) as running, ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask, running.http)
        wait_for(lambda: len(answered) > 20)
        time.sleep(killed_after)
        running.popen.kill()
    engine = connect(sqlite_url)
    with engine.connect() as connection:
        stored = set(connection.execute(text("SELECT question_id FROM intent_user_questions")).scalars())
        assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    engine.dispose()
    assert set(answered) <= stored
