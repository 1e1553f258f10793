"""Health, readiness, figures, and the errors that belong to no route."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app.db.guard import HOPEFUL
from app.db.session import connect
from app.main import create_app
from app.settings import Settings
from tests.api.conftest import LOOP, SECRET, Service, served
from tests.builders import make_version


def test_healthy_process_says_so(service: Service) -> None:
    assert service.get("/healthz").json() == {"status": "ok"}


def test_ready_without_a_model_names_the_domains(service: Service) -> None:
    answer = service.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "database": True,
        "degraded_since": None,
        "spooled_rows": 0,
        "spooled_bytes": 0,
        "generative": "off",
        "generative_reason": None,
        "domains": [{"domain": "default", "version": None, "epoch": 0, "error": None}],
    }


def test_who_is_turned_away_because_enough_wait_for_the_database_hears_503(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = service.services.guard
    guard.stop()  # it would find the database there
    monkeypatch.setattr(guard, "_away_since", datetime.now(UTC))
    with ExitStack() as waiting:
        for _ in range(HOPEFUL):
            waiting.enter_context(guard.admit(5.0))
        answer = service.get(f"{LOOP}/stats")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]
    assert service.get(f"{LOOP}/stats").status_code == 200


def test_not_ready_while_draining(service: Service) -> None:
    service.services.draining = True
    answer = service.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert 1 <= int(answer.headers["Retry-After"]) <= 5


@contextmanager
def without_tables(url: str) -> Iterator[None]:
    """The tables are moved away: every statement fails, as it does when a server loses its database."""
    engine = connect(url)

    def rename(old: str, new: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    rename("intent_domains", "away_domains")
    rename("intent_user_questions", "away_questions")
    yield
    rename("away_domains", "intent_domains")
    rename("away_questions", "intent_user_questions")
    engine.dispose()


def test_what_needs_the_database_is_refused_while_it_is_away(service: Service, sqlite_url: str) -> None:
    with without_tables(sqlite_url):
        answers = requests_of(service)
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, "unavailable")] * 4
        assert all(answer.headers["Retry-After"] for answer in answers)
    assert all(answer.status_code != 503 for answer in requests_of(service))


def requests_of(service: Service) -> list[httpx.Response]:
    return [
        service.post(f"{LOOP}/questions", {"question": "你好"}),
        service.get(f"{LOOP}/stats"),
        service.get(f"{LOOP}/questions/unlabeled"),
        service.post(f"{LOOP}/batches", {}),
    ]


def test_answers_are_spooled_while_the_database_is_away_and_ready_says_since_when(
    service: Service, sqlite_url: str
) -> None:
    assert "logged" not in service.classify("你好")
    with without_tables(sqlite_url):
        first = service.classify("电池鼓包了", request_id="one")
        batch = service.post("/classify/batch", {"texts": ["你好", "再见"]}).json()["results"]
        assert [answer["logged"] for answer in (first, *batch)] == ["spooled"] * 3
        assert service.classify("电池鼓包了", request_id="one") == first
        other = service.post("/classify", {"text": "换一个", "request_id": "one"})
        assert (other.status_code, other.json()["code"]) == (422, "request_id_conflict")
        ready = service.get("/readyz").json()
        assert (ready["status"], ready["database"], ready["spooled_rows"]) == ("degraded", False, 3)
        assert ready["degraded_since"].endswith("Z")
        assert ready["spooled_bytes"] > 1000
        figures = service.get("/metrics").text
        assert "intentloop_log_degraded 1.0" in figures
        assert "intentloop_spooled_questions 3.0" in figures
        assert "intentloop_spool_spooled_total 3.0" in figures
    service.wait_for(lambda: service.get("/readyz").json()["status"] == "ready", 20)
    for answer in (first, *batch):
        row = service.get(f"{LOOP}/questions/{answer['question_id']}").json()
        assert row["question"] in ("电池鼓包了", "你好", "再见")
    again = service.classify("电池鼓包了", request_id="one")
    assert again == {name: value for name, value in first.items() if name != "logged"}
    figures = service.get("/metrics").text
    assert "intentloop_log_degraded 0.0" in figures
    assert "intentloop_spool_replayed_total 3.0" in figures
    assert "intentloop_spooled_questions 0.0" in figures


def test_strict_answers_503_and_is_not_ready_while_the_database_is_away(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path, log_mode="strict") as service:
        with without_tables(sqlite_url):
            answers = [
                service.post("/classify", {"text": "你好"}),
                service.post("/classify/batch", {"texts": ["你好", "再见"]}),
                service.get("/readyz"),
            ]
            assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, "unavailable")] * 3
            assert all(answer.headers["Retry-After"] for answer in answers)
        service.wait_for(lambda: service.get("/readyz").status_code == 200, 20)
        assert "logged" not in service.classify("你好")


def test_a_full_spool_is_503_with_its_own_code_and_not_ready(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path, spool_max_rows=1) as service, without_tables(sqlite_url):
        assert service.classify("你好")["logged"] == "spooled"
        answer = service.post("/classify", {"text": "你好"})
        assert (answer.status_code, answer.json()["code"]) == (503, "spool_full")
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
        assert service.get("/readyz").status_code == 503


def test_stats_of_an_empty_domain_say_why_no_batch_has_run(service: Service) -> None:
    stats = service.get(f"{LOOP}/stats").json()
    assert stats["questions"] == stats["labelled"] == stats["queue"] == stats["epoch"] == 0
    assert stats["versions"] == []
    assert stats["active_version"] is None
    assert stats["clock_running"] is False
    assert stats["next_batch"]["labels_missing"] == 100
    assert stats["next_batch"]["due"] is False
    assert stats["next_batch"]["reason"]
    assert stats["worth"]["curve"] is None
    assert "4 versions" in stats["worth"]["says"][0]


def test_stats_say_what_further_labels_are_worth(service: Service) -> None:
    for labels in range(100, 900, 100):
        f1 = {"value": 0.9 - 2 * labels**-0.5, "low": None, "high": None}
        told = {"gold": {"count": 300, "macro_f1": f1}}
        service.services.work(make_version, train_count=labels, evaluation=told)
    worth = service.get(f"{LOOP}/stats", target=0.87).json()["worth"]
    assert [point["labels"] for point in worth["points"]] == list(range(100, 900, 100))
    assert worth["target"]["macro_f1"] == 0.87
    assert worth["target"]["more_labels"] > 1_000
    assert worth["gain"]["low"] <= worth["gain"]["value"] <= worth["gain"]["high"]
    assert worth["stop"]["stop"] is False
    for wrong in (0, 1.01, "much", "nan"):
        assert service.get(f"{LOOP}/stats", target=wrong).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/classify", 405, "method_not_allowed"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
        ("PATCH", f"{LOOP}/taxonomy", 405, "method_not_allowed"),
        ("POST", "/classify/", 404, "not_found"),
        ("GET", f"{LOOP}/models/", 404, "not_found"),
        ("GET", f"{LOOP}/../../../etc/passwd", 404, "not_found"),
        ("GET", "/%00", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_a_problem_too(calm: Service, method: str, path: str, status: int, code: str) -> None:
    answer = calm.http.request(method, path, follow_redirects=False)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (status == 405) == ("allow" in answer.headers)


def test_error_that_nobody_foresaw_is_a_problem_without_its_message(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "".join(["金", "丝", "雀"])  # in pieces: the lines of code that are logged would hold it whole

    def broken() -> None:
        raise KeyError(canary) from ValueError(canary)

    service.http.app.add_api_route("/broken", broken)  # type: ignore[attr-defined]
    answer = service.get("/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "KeyError from ValueError" in caplog.text
    assert canary not in caplog.text + answer.text


def test_cors_is_off_unless_origins_are_named(service: Service, sqlite_url: str, tmp_path: Path) -> None:
    asks = {"Origin": "https://console.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in service.http.post("/classify", json={}, headers=asks).headers
    with served(sqlite_url, tmp_path, cors_origins=["https://console.example"], max_body_bytes=1024) as open_service:
        http = open_service.http
        assert http.options("/classify", headers=asks).headers["access-control-allow-origin"] == asks["Origin"]
        # A refusal without the header would reach the browser's code as a network error.
        for refused in (
            http.post("/classify", content=b"x" * 2048, headers=asks),
            http.post("/classify", content=b"{", headers=asks | {"Content-Type": "application/json"}),
            http.get("/nothing", headers=asks),
        ):
            assert refused.status_code in (400, 404, 413)
            assert refused.headers["access-control-allow-origin"] == asks["Origin"]
        strange = {"Origin": "https://elsewhere.example"}
        assert "access-control-allow-origin" not in http.get("/healthz", headers=strange).headers


def test_two_applications_in_one_process_keep_their_own_limits(sqlite_url: str, tmp_path: Path) -> None:
    nested = {"text": "x", "user": [[[[[[]]]]]]}
    with (
        served(sqlite_url, tmp_path / "a", max_json_depth=4) as strict,
        served(sqlite_url, tmp_path / "b", max_json_depth=32) as lenient,
    ):
        assert strict.post("/classify", nested).status_code == 400
        assert lenient.post("/classify", nested).status_code == 200
        assert strict.post("/classify", nested).status_code == 400


def test_requests_in_flight_are_answered_when_the_application_stops(sqlite_url: str, tmp_path: Path) -> None:
    """The lifespan ends while questions wait for the log: all are answered, all are committed."""
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=sqlite_url, secret_key=SECRET)
    app = create_app(settings)
    other = connect(sqlite_url)

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            async with app.router.lifespan_context(app):
                lock = other.connect()
                lock.begin()  # the write lock: the log has to wait for it
                asking = [asyncio.create_task(http.post("/classify", json={"text": f"{i}"})) for i in range(40)]
                await asyncio.sleep(0.3)
                assert not any(task.done() for task in asking)
                threading.Timer(0.5, lock.close).start()
            assert all(task.done() for task in asking)
            return await asyncio.gather(*asking)

    answers = asyncio.run(run())
    with other.begin() as connection:
        rows = connection.execute(text("SELECT count(*) FROM intent_user_questions")).scalar_one()
    other.dispose()
    assert [answer.status_code for answer in answers] == [200] * 40
    assert rows == 40


def test_new_questions_are_refused_once_the_application_stops(sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=sqlite_url, secret_key=SECRET)
    http = TestClient(create_app(settings))
    with http:
        start = time.monotonic()
    assert time.monotonic() - start < 5
    answer = http.post("/classify", json={"text": "你好"})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
