"""What must never be stored or logged: the texts of hash-only domains, personal data, any question in a log line."""

import logging
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.session import connect
from tests.api.conftest import LOOP, Service, process, served
from tests.serving.artifacts import LABELS

# Each with what stands in its place.
PERSONAL = {
    "13812345678": "打给 13812345678 好吗",
    "010-62345678": "座机 010-62345678 没人接",
    "11010519491231002X": "身份证 11010519491231002X 办理",
    "6222020200112233450": None,
    "li.lei@example.com": "写信给 li.lei@example.com 吧",
}


def _bytes(folder: Path) -> bytes:
    """Everything that SQLite keeps of the database: the file and its write-ahead log."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("intentloop.db*")))


def test_hash_only_domain_leaves_no_text_in_the_bytes_of_the_database(
    service: Service, sqlite_url: str, tmp_path: Path
) -> None:
    service.post(f"{LOOP}/domains", {"name": "secret", "keep_text": False})
    service.put_taxonomy(domain="secret")
    canary = "金丝雀唱的歌没有人听见"
    asked = service.classify(canary, domain="secret", user_id="canary-user")
    service.post("/classify/batch", {"texts": [canary + "二"], "domain": "secret"})
    logged = service.log(canary, domain="secret", intents=[LABELS[1]], confidence=0.5, method="llm_fallback")
    service.post(f"{LOOP}/questions", {"questions": [{"question": canary + "三", "domain": "secret"}]})
    service.wait_for(lambda: service.get(f"{LOOP}/stats", domain="secret").json()["texts"] == 3)

    stored = _bytes(tmp_path)
    assert logged.encode() in stored  # the bytes are those of this database
    for secret in (canary[:4], canary[-4:], "canary-user"):
        assert secret.encode() not in stored
        assert secret.encode("utf-16-le") not in stored
    # Twins are recognised all the same.
    questions = [service.get(f"{LOOP}/questions/{asked_id}").json() for asked_id in (asked["question_id"], logged)]
    assert [question["question"] for question in questions] == [None, None]
    refused = service.get(f"{LOOP}/questions/unlabeled", domain="secret", labeler_id="ana")
    assert (refused.status_code, refused.json()["code"]) == (409, "no_texts")
    assert service.get(f"{LOOP}/questions/unlabeled", domain="secret").status_code == 409
    label = service.label(logged, LABELS[0])
    assert (label.status_code, label.json()["code"]) == (409, "no_texts")
    assert service.get(f"{LOOP}/stats", domain="secret").json()["queue"] == 0


@pytest.mark.parametrize(("secret", "sentence"), [(s, t) for s, t in PERSONAL.items() if t])
def test_personal_data_never_reaches_the_database(service: Service, tmp_path: Path, secret: str, sentence: str) -> None:
    asked = service.classify(sentence, user_id="user-4711")
    # Full-width digits and invisible characters are the same number to a reader.
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in sentence)
    service.log(wide)
    service.log("\u200b".join(sentence))
    service.post("/classify/batch", {"items": [{"text": sentence}]})
    question = asked["question_id"]
    service.put_taxonomy()
    service.post(f"{LOOP}/questions/{question}/skip", {"labeler_id": "ana", "reason": sentence})

    shown = service.get(f"{LOOP}/questions/{question}").json()["question"]
    assert shown
    assert secret not in shown
    stored = _bytes(tmp_path)
    assert question.encode() in stored
    for form in (secret, "".join(chr(ord(c) + 0xFEE0) for c in secret), "user-4711"):
        assert form.encode() not in stored


def test_no_line_of_the_log_holds_the_text_of_a_question(
    service_with_model: Service, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The canary goes through every route that takes a text, answered well, refused, and with the database broken."""
    caplog.set_level(logging.DEBUG)
    service, canary = service_with_model, "金丝雀唱歌"
    engine = connect(sqlite_url)

    def everywhere() -> list[int]:
        question = service.post(f"{LOOP}/questions", {"question": canary}).json().get("question_id", "x")
        about = f"{LOOP}/questions/{question}"
        answers = [
            service.post("/classify", {"text": canary, "request_id": "one"}),
            service.post("/classify", {"text": canary + "二", "request_id": "one"}),
            service.post("/classify", {"text": canary * 10_000}),
            service.post("/classify", {"text": [canary]}),
            service.post("/classify", {canary: canary}),
            service.post("/classify/batch", {"texts": [canary, canary * 10_000, [canary]]}),
            service.post(f"{LOOP}/questions", {"question": canary, "confidence": canary, "method": canary}),
            service.post(f"{LOOP}/questions", {"questions": [{"question": canary, "asked_at": canary}, canary]}),
            service.post(about + "/label", {"correct_intent": [canary], "labeler_id": "ana"}),
            service.post(about + "/skip", {"labeler_id": "ana", "reason": canary}),
            service.http.post("/classify", content=f'{{"text": "{canary}'.encode()),
            service.http.post("/classify", content=canary.encode(), headers={"Content-Type": "text/plain"}),
            service.get(f"{LOOP}/questions/unlabeled", labeler_id=canary, strategy=canary),
            service.get(f"{LOOP}/models/{canary}"),
        ]
        for answer in answers:
            assert answer.status_code < 400 or canary not in answer.text
        return [answer.status_code for answer in answers]

    statuses = everywhere()
    assert 200 in statuses
    assert 422 in statuses
    with engine.begin() as connection:
        # A constraint that breaks in the middle quotes the row; a missing table quotes the statement.
        connection.execute(text("CREATE TRIGGER refuse BEFORE INSERT ON intent_user_questions BEGIN "
                                "SELECT RAISE(ABORT, 'refused'); END"))  # fmt: skip
        connection.execute(text("DROP TABLE intent_leases"))
    assert 503 in everywhere()
    engine.dispose()

    assert caplog.records
    assert canary[:3] not in caplog.text
    for record in caplog.records:
        assert canary[:3] not in str(record.__dict__)


def test_log_of_a_process_holds_no_text_when_a_server_refuses_the_row(database_url: str, tmp_path: Path) -> None:
    """PostgreSQL quotes the whole row in the message of a failing check, MariaDB the key."""
    canary = "金丝雀唱歌"
    with process(database_url, tmp_path) as running:
        engine = connect(database_url)
        dialect = engine.dialect.name
        with engine.begin() as connection:
            if dialect == "sqlite":
                connection.execute(text("CREATE TRIGGER refuse BEFORE INSERT ON intent_user_questions BEGIN "
                                        "SELECT RAISE(ABORT, 'refused'); END"))  # fmt: skip
            else:
                connection.execute(
                    text("ALTER TABLE intent_user_questions ADD CONSTRAINT refuse CHECK (method = 'llm_fallback')")
                )
        try:
            bodies = ({"text": canary, "request_id": canary}, {"text": canary})
            answers = [running.http.post("/classify", json=body) for body in bodies]
            answers.append(running.http.post(f"{LOOP}/questions", json={"question": canary}))
        finally:
            with engine.begin() as connection:
                drop = (
                    "DROP TRIGGER refuse"
                    if dialect == "sqlite"
                    else "ALTER TABLE intent_user_questions DROP CONSTRAINT refuse"
                )
                connection.execute(text(drop))
            engine.dispose()
        assert [answer.status_code for answer in answers] == [503] * 3
        assert all(canary not in answer.text for answer in answers)
    log = running.log.read_text()
    assert "Error" in log
    assert canary not in log


def test_user_ids_are_kept_as_keyed_hashes(service: Service, sqlite_url: str, tmp_path: Path) -> None:
    service.classify("一", user_id="u1")
    service.classify("二", user_id="u1")
    service.classify("三", user_id="u2")
    with served(sqlite_url, tmp_path / "other", secret_key="another secret of these tests") as other:
        other.classify("四", user_id="u1")
    engine = connect(sqlite_url)
    with engine.connect() as connection:
        hashes = (
            connection.execute(text("SELECT user_hash FROM intent_user_questions ORDER BY asked_at")).scalars().all()
        )
    engine.dispose()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
