"""A 2xx means committed: where the commit itself fails, no route answers 2xx and nothing is left half."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from app.db.session import connect
from tests.api.conftest import LOOP, Service
from tests.builders import make_labelled_texts, make_version
from tests.serving.artifacts import LABELS

TABLES = (
    "intent_user_questions", "intent_annotations", "intent_labels", "intent_domains", "intent_leases",
    "intent_model_training_batches", "intent_model_activations",
)  # fmt: skip


def _break_commits(engine: Engine, table: str) -> None:
    """Every insert or update leaves a debt that is only looked at when the transaction commits, and then fails it."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS debts (id INTEGER PRIMARY KEY, owed INTEGER REFERENCES "
                                "debts (id) DEFERRABLE INITIALLY DEFERRED)"))  # fmt: skip
        for event in ("INSERT", "UPDATE"):
            connection.execute(text(f"CREATE TRIGGER owe_{event}_{table} AFTER {event} ON {table} BEGIN "
                                    "INSERT INTO debts (owed) VALUES (-1); END"))  # fmt: skip


def _contents(engine: Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {table: connection.execute(text(f"SELECT * FROM {table}")).all() for table in TABLES}


@pytest.mark.parametrize(
    ("table", "method", "path", "body"),
    [
        ("intent_user_questions", "POST", "/classify", {"text": "你好"}),
        ("intent_user_questions", "POST", "/classify/batch", {"texts": ["你好", "再见"]}),
        ("intent_user_questions", "POST", f"{LOOP}/questions", {"question": "你好"}),
        ("intent_user_questions", "POST", f"{LOOP}/questions", {"questions": [{"question": "你好"}]}),
        ("intent_annotations", "POST", f"{LOOP}/questions/{{question}}/label",
         {"correct_intent": [LABELS[0]], "labeler_id": "ana"}),
        ("intent_annotations", "POST", f"{LOOP}/questions/{{question}}/skip", {"labeler_id": "ana"}),
        ("intent_labels", "PUT", f"{LOOP}/taxonomy", ["新的"]),
        ("intent_domains", "POST", f"{LOOP}/domains", {"name": "new"}),
        ("intent_model_training_batches", "POST", f"{LOOP}/batches", {}),
        ("intent_model_activations", "POST", f"{LOOP}/models/default-v1/activate", {}),
        ("intent_leases", "GET", f"{LOOP}/questions/unlabeled?labeler_id=ana", None),
    ],
)  # fmt: skip
def test_commit_that_fails_is_never_answered_2xx(
    service: Service, sqlite_url: str, table: str, method: str, path: str, body: Any
) -> None:
    work = service.services.work
    service.put_taxonomy()
    make_labelled_texts(work, {LABELS[0]: 2, LABELS[1]: 2})
    work(lambda session: make_version(session).version)
    questions = [service.log(f"第{number}个问题") for number in range(20)]
    service.wait_for(lambda: service.get(f"{LOOP}/stats").json()["texts"] == 24)  # nothing more follows by itself
    engine = connect(sqlite_url)
    _break_commits(engine, table)
    before = _contents(engine)

    answer = service.http.request(method, path.format(question=questions[0]), json=body)

    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "unavailable"
    assert answer.headers["Retry-After"]
    assert _contents(engine) == before
    with engine.begin() as connection:
        for event in ("INSERT", "UPDATE"):
            connection.execute(text(f"DROP TRIGGER owe_{event}_{table}"))
    engine.dispose()
    # The same request afterwards: nothing of the failure is left in the way.
    assert service.http.request(method, path.format(question=questions[0]), json=body).status_code < 300


def test_every_2xx_is_in_the_database_when_it_arrives(service: Service, sqlite_url: str, tmp_path: Path) -> None:
    engine = connect(sqlite_url)
    for number in range(50):
        asked = service.classify(f"第{number}句")
        with engine.connect() as connection:
            found = connection.execute(
                text("SELECT count(*) FROM intent_user_questions WHERE question_id = :id"), {"id": asked["question_id"]}
            ).scalar_one()
        assert found == 1
    engine.dispose()
