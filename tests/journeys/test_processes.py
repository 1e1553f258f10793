"""Service, clock and `up` as processes: they start, stop in order, are started again, and leave nothing behind."""

import os
import signal
import socket
import threading
import time
import uuid
from pathlib import Path

import httpx

from app.services import runs
from tests.journeys.processes import NEVER, Installation, stop, wait_for
from tests.journeys.worlds import label_texts, probes, told_version

THREADS = 8


def clocks(world: Installation) -> list[int]:
    """The ids of the clocks that reported lately and live."""
    rows = world.work.read(runs.replicas, role="clock", alive_seconds=15)
    return [pid for row in rows if (pid := int(row.replica.rsplit(":", 1)[1])) in world.processes()]


def test_a_service_that_is_stopped_under_load_answers_all_that_it_logged(world):
    version = told_version(world, world.folder / "specs", shift=0)
    from app.services import activations

    world.work(activations.activate, version, by="ana", reason="")
    service = world.serve()
    answered: dict[str, int] = {}
    refused: list[str] = []
    asking = threading.Event()
    asking.set()

    def ask(number: int) -> None:
        texts = probes(40)
        with httpx.Client(base_url=str(world.http.base_url), timeout=20, trust_env=False) as http:
            while asking.is_set():
                request_id = uuid.uuid4().hex
                try:
                    body = {"text": texts[number], "request_id": request_id}
                    answered[request_id] = http.post("/classify", json=body).status_code
                except httpx.TransportError:
                    refused.append(request_id)
                    time.sleep(0.01)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answered) > 200, what="some load")
    assert stop(service) == 0
    asking.clear()
    for thread in threads:
        thread.join(timeout=30)
    assert set(answered.values()) == {200}
    logged = {row.request_id for row in world.questions()}
    # What was accepted was logged and answered; what was not answered was never accepted.
    assert logged == set(answered)
    assert refused, "the load ended before the service did: this shows nothing"
    assert "Traceback" not in world.said()


def test_up_runs_both_starts_a_killed_clock_again_and_leaves_no_process(world):
    world.settings["SELECT_CRON"] = NEVER
    both = world.start("up")
    world.wait_until_ready(both)
    (first,) = wait_for(lambda: clocks(world), what="the clock")
    label_texts(world, 12)
    os.kill(first, signal.SIGKILL)
    (second,) = wait_for(lambda: clocks(world), what="another clock")
    assert second != first
    active = wait_for(lambda: world.get("/stats")["active_version"], what="a version")
    assert world.post("/classify", {"text": probes(1)[0]})["model_version"] in (None, active)
    assert stop(both) == 0
    assert not world.processes()
    assert "the clock ended with status -9; it is started again" in world.said()


def test_up_ends_with_its_service(world):
    both = world.start("up")
    world.wait_until_ready(both)
    (service,) = (pid for pid in world.processes() if b"\0serve\0" in cmdline(pid))
    os.kill(service, signal.SIGKILL)
    assert both.wait(timeout=30) == 1
    assert "the service ended with status -9" in world.said()
    assert not world.processes()


def test_up_that_is_killed_leaves_no_process_behind(world):
    both = world.start("up")
    world.wait_until_ready(both)
    wait_for(lambda: clocks(world), what="the clock")
    both.kill()
    both.wait(timeout=10)
    wait_for(lambda: not world.processes(), what="the end of service and clock")


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_port_that_is_taken_is_one_sentence_and_ends_up_too(world):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", world.port))
        taken.listen()
        assert world.start("up").wait(timeout=60) == 1
    assert f"the service cannot listen on 127.0.0.1:{world.port}: Address already in use" in world.said()
    assert "the service ended with status 1" in world.said()
    assert "Traceback" not in world.said()
    assert not world.processes()


def test_port_zero_takes_a_free_port_and_names_it(world):
    service = world.start("serve", PORT=0)
    said = wait_for(lambda: "listening on" in world.said() and world.said(), what="the port")
    address = said.split("listening on ")[1].split(" ")[0]
    wait_for(lambda: is_healthy(address), what=address)
    assert stop(service) == 0


def is_healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_a_failed_training_is_one_sentence_on_the_batch_and_the_old_version_serves_on(world):
    world.settings |= {"TRAIN_CRON": NEVER, "SELECT_CRON": NEVER}
    world.serve()
    label_texts(world, 12)
    clock = world.start("clock")
    run_a_batch(world, {})
    serving = wait_for(lambda: world.get("/stats")["active_version"], what="the first version")
    wait_for(lambda: world.post("/classify", {"text": probes(1)[0]})["model_version"] == serving, what="the flip")
    long = {"folds": 20, "strengths": [number / 4 for number in range(1, 120)], "tolerance": 1e-6}
    for config, words in (({"folds": 1}, "folds must lie between"), (long, "signal 9")):
        batch_id = run_a_batch(world, {"config": config, "retrain": True})
        if config is long:
            os.kill(wait_for(lambda: world.trainers(), what="the trainer")[0], signal.SIGKILL)
        wait_for(lambda: world.batches()[-1].training_status == "failed", what=words)
        failed = world.get(f"/batches/{batch_id}")
        assert words in failed["error"]
        assert "\n" not in failed["error"]
        assert failed["model_version"] is None
        assert world.post("/classify", {"text": probes(1)[0]})["model_version"] == serving
    assert len(world.get("/models")["items"]) == 1
    assert stop(clock) == 0


def run_a_batch(world: Installation, body: dict) -> str:
    """Open a batch and tell it to run; returns its id."""
    batch_id = world.post("/batches", body)["batch_id"]
    world.post(f"/batches/{batch_id}/run")
    return str(batch_id)
