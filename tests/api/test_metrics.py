"""What Prometheus reads: every figure is the one of the application, no label is somebody's, and it never fails."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api import metrics
from app.api.metrics import DatabaseFigures, Metrics
from app.db.session import UnitOfWork
from app.services import batches, runs
from app.services.installation import Installation, look
from tests.api.conftest import LOOP, Service, served
from tests.builders import ask, domain_id, label, make_labelled_texts, set_taxonomy, trainable_text
from tests.services.together import in_threads

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(service: Service) -> Samples:
    answer = service.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return samples(answer.text)


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: Any) -> float | None:
    return found.get((f"intentloop_{name}", tuple(sorted((key, str(item)) for key, item in labels.items()))))


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0.2)


def fresh(service: Service) -> Samples:
    time.sleep(0.21)
    return read(service)


def test_requests_are_counted_by_route_method_and_status(service: Service) -> None:
    before = read(service)
    service.classify("你好")
    service.classify("你好")
    service.post("/classify", {"text": ""})
    service.get("/nowhere/13812345678")
    service.get(f"{LOOP}/questions/13812345678")
    service.http.request("BREW", "/classify")
    after = read(service)

    def grown(name: str, **labels: Any) -> float:
        return (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0)

    assert grown("http_requests_total", method="POST", route="/classify", status=200) == 2
    assert grown("http_requests_total", method="POST", route="/classify", status=422) == 1
    assert grown("http_requests_total", method="GET", route="none", status=404) == 1
    assert grown("http_requests_total", method="GET", route=f"{LOOP}/questions/{{question_id}}", status=404) == 1
    assert sum(value for (name, labels), value in after.items() if ("method", "OTHER") in labels) == 1
    assert grown("http_request_duration_seconds_count", route="/classify") >= 3
    assert not any("13812345678" in str(key) for key in after)


def test_questions_are_counted_once_by_domain_and_method(service_with_model: Service) -> None:
    service = service_with_model
    before = read(service)
    for _ in range(3):
        service.classify("手机开不了机", request_id="one")
    service.post("/classify/batch", {"texts": ["一", "二"]})
    after = read(service)
    labels = {"domain": "default", "method": "local_model"}
    assert (value(after, "questions_total", **labels) or 0) - (value(before, "questions_total", **labels) or 0) == 3
    assert (value(after, "log_write_duration_seconds_count") or 0) > 0
    assert value(after, "serving_epoch", domain="default") == 1
    assert value(after, "serving_info", domain="default", version="default-v1") == 1
    assert value(after, "serving_error", domain="default") == 0


def test_figures_of_the_database_are_those_of_its_rows(any_service: Service) -> None:
    work: UnitOfWork = any_service.services.work
    set_taxonomy(work, ["甲", "乙"])
    make_labelled_texts(work, {"甲": 3, "乙": 2})
    batch = work(batches.open_batch, "default", opened_by="ana")
    label(work, ask(work, trainable_text("甲"))[0], "甲")
    ask(work, trainable_text("甲"), trainable_text("甲"))
    work(runs.report_replica, "host:1", role="clock")
    for number in range(3):
        run_id = work(runs.begin, "purge", _slot(number), worker="w")
        work(runs.finish, run_id, error="x" if number == 2 else None)

    found = fresh(any_service)

    assert value(found, "database_up") == 1
    assert value(found, "batches", domain="default", status="pending") == 1
    assert value(found, "labels_pending", domain="default") == 1
    assert value(found, "texts_waiting", domain="default") == 2
    assert value(found, "replicas", role="clock") == 1
    assert value(found, "replicas", role="service") == 1
    assert value(found, "job_runs_total", job="purge", outcome="done") == 2
    assert value(found, "job_runs_total", job="purge", outcome="failed") == 1
    assert value(found, "fold_lag_seconds") == 0
    assert value(found, "wanted_epoch", domain="default") == 0
    assert batch.question_count == 5


def _slot(number: int) -> datetime:
    return datetime(2026, 1, 1, number, tzinfo=UTC)


def test_a_run_that_died_is_counted_once_when_two_clocks_look(work: UnitOfWork) -> None:
    work(runs.begin, "purge", _slot(1), worker="w")
    time.sleep(0.05)
    in_threads(4, lambda _: work(runs.reap, lost_after_seconds=0.01))
    found = work.read(look, most_domains=5)
    assert found.job_runs == {("purge", "died"): 1}


def test_metrics_are_there_when_the_database_is_not(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path) as service:
        assert value(fresh(service), "database_up") == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service.services.work, "read", lambda *_, **__: 1 / 0)
            away = fresh(service)
        assert value(away, "database_up") == 0
        assert value(away, "texts_waiting", domain="default") is None
        assert value(away, "queue_depth", queue="log") == 0
        assert value(fresh(service), "database_up") == 1


def test_a_database_that_hangs_takes_one_thread_and_no_scrape_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", 0.05)
    begun = []

    def hang() -> None:
        begun.append(1)
        time.sleep(1.5)

    figures = DatabaseFigures(hang)
    for _ in range(5):
        (up, *_) = figures.collect()
        assert [sample.value for sample in up.samples] == [0.0]
    assert len(begun) == 1


def test_the_database_is_read_at_most_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 60)
    begun = []

    def look_well() -> Installation:
        begun.append(1)
        return Installation([], {}, {}, 0.0)

    figures = DatabaseFigures(look_well)
    for _ in range(5):
        list(figures.collect())
    assert len(begun) == 1


def test_domains_beyond_the_cap_are_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_DOMAINS", 2)
    counted = Metrics()
    counted.logged([(f"d{number}", "none") for number in range(5)] + [("d0", "none")])
    found = samples(metrics.generate_latest(counted.registry).decode())
    assert value(found, "questions_total", domain="d0", method="none") == 2
    assert value(found, "questions_total", domain="other", method="none") == 3


def test_every_metric_has_the_prefix_and_a_base_unit(service: Service) -> None:
    service.classify("你好")
    text = service.get("/metrics").text
    names = re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE)
    assert len(names) > 25
    for name in names:
        assert name.startswith("intentloop_"), name
        assert not re.search(r"_(ms|milliseconds|minutes|percent|kb|mb)(_|$)", name), name


def test_two_applications_in_one_process_keep_their_own_figures(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path / "a") as one, served(sqlite_url, tmp_path / "b") as other:
        one.classify("你好")
        assert value(read(one), "questions_total", domain="default", method="none") == 1
        assert value(read(other), "questions_total", domain="default", method="none") is None
        assert domain_id(one.services.work) == 1
