"""The demonstration, at a faster pace than people see it."""

import os
import signal
import subprocess
import sys
import time
from threading import Thread

import httpx
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.simulation import show
from app.simulation.client import Client, LoopFailed
from app.simulation.service import free_port, running_service

FAST = show.Pace(questions_per_second=100, labels_per_second=40, labels=240, batch_labels=70)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the demonstration came to, all tables it showed, and its client while the service still runs."""
    tables = []
    with (
        running_service(tmp_path_factory.mktemp("demo"), show.settings(FAST)) as service,
        Client(service.address).open() as client,
    ):
        told = show.show(client, lambda rows, note: tables.append((rows, note)), pace=FAST, seed=1)
        yield told, tables, client


def test_versions_flip_while_traffic_goes_on_and_no_request_fails(shown):
    told, tables, client = shown
    assert told.failed == 0, told.failures
    assert told.versions >= 2
    assert told.labels == FAST.labels == client.stats()["texts_labelled"]
    assert told.last.state == "serving"
    answered = [sum(row.tally.asked for row in rows) for rows, _ in tables]
    assert answered == sorted(answered)
    assert all(row.tally.asked for row in tables[-1][0] if row.state != "refused"), "every version has answered"


def test_every_answer_was_logged_once(shown):
    told, _, client = shown
    assert client.stats()["questions"] == told.asked


def test_learning_shows_in_the_traffic(shown):
    told, _, _ = shown
    assert told.last.tally.accuracy > 0.3
    assert len(told.confused) == 5


def test_a_failed_batch_ends_the_demonstration_with_its_reason(shown, monkeypatch):
    _, _, client = shown
    stats = client.stats()
    monkeypatch.setattr(client, "newest_batch", lambda: {"batch_id": "default-b9", "error": "out of memory"})
    with pytest.raises(LoopFailed, match="batch default-b9 failed: out of memory"):
        show._refuse_failures(client, stats | {"batches": {"failed": 1}})
    show._refuse_failures(client, stats)


def test_demo_refuses_a_folder_with_a_database(tmp_path):
    (tmp_path / "intentloop.db").touch()
    ended = CliRunner().invoke(app, ["demo", "--data-dir", str(tmp_path)])
    assert ended.exit_code == 2
    assert "holds a database already" in ended.stderr


def test_demo_that_keeps_running_ends_in_order_on_ctrl_c(tmp_path):
    port = free_port()
    options = ["--keep", "--labels", "130", "--port", str(port), "--data-dir", str(tmp_path / "kept")]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "app", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    said = []
    reader = Thread(target=lambda: said.extend(process.stdout), daemon=True)
    reader.start()
    deadline = time.monotonic() + 120
    while not any("Ctrl-C ends it" in line for line in said) and time.monotonic() < deadline:
        time.sleep(0.1)
    log = (tmp_path / "kept" / "service.log").read_text()
    assert any("Ctrl-C ends it" in line for line in said), f"{said}\n{log}"
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    reader.join(10)
    text = "".join(said)
    assert "0 of" in text
    assert f"http://127.0.0.1:{port}/docs" in text
    assert (tmp_path / "kept" / "intentloop.db").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/readyz")
