"""Starting a service of our own."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from app.simulation.client import LoopFailed
from app.simulation.service import ended_by_signals, environment, free_port, running_service, stop


def test_no_setting_of_another_installation_reaches_the_service(tmp_path, monkeypatch):
    monkeypatch.setenv("INTENTLOOP_DATABASE_URL", "postgresql://production")
    monkeypatch.setenv("INTENTLOOP_BATCH_LABELS", "7")
    monkeypatch.setenv("intentloop_gate", "manual")
    monkeypatch.setenv("LANG", "C.UTF-8")
    given = environment(tmp_path, {"BATCH_SHARE": 0}, 1234)
    assert given["INTENTLOOP_DATABASE_URL"] == f"sqlite:///{tmp_path}/intentloop.db"
    assert given["INTENTLOOP_BATCH_SHARE"] == "0"
    assert given["INTENTLOOP_PORT"] == "1234"
    assert "INTENTLOOP_BATCH_LABELS" not in given
    assert "intentloop_gate" not in given
    assert given["LANG"] == "C.UTF-8"


def test_a_port_that_is_taken_is_not_chosen():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        assert free_port(wanted) != wanted
    assert free_port(wanted) == wanted


def test_a_service_that_cannot_start_is_reported_with_the_end_of_its_log(tmp_path):
    with (
        pytest.raises(LoopFailed, match=r"(?s)before it was ready\n.*BATCH_LABELS"),
        running_service(tmp_path, {"BATCH_LABELS": "many"}),
    ):
        pass


def test_a_process_that_does_not_listen_to_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr("app.simulation.service.STOP_SECONDS", 0.5)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"deaf\n"
    began = time.monotonic()
    stop(process)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 10


def test_sigterm_ends_a_block_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
