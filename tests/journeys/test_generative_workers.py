"""Several workers share one generative process, which their supervisor starts, starts again, and takes with it."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.journeys.processes import Installation, installation, pids, stop, wait_for

PATIENCE_SECONDS = 120


@pytest.fixture
def world(sqlite_url: str, tmp_path: Path):
    with installation(tmp_path, sqlite_url, GENERATIVE="true", GENERATIVE_MEMORY_MB=16384) as made:
        yield made


def generative_processes(of: Path) -> list[int]:
    """The generative processes that look for their bases in this installation's folder."""
    found = []
    for pid in pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"trainer.generative" in words and any(os.fsencode(of) in word for word in words) and b"-m" in words:
            found.append(pid)
    return found


def answers(world: Installation) -> bool:
    return bool(world.http.get("/readyz").json()["generative"] == "ready")


def test_two_workers_ask_one_process_which_ends_with_the_service(world: Installation) -> None:
    service = world.start("serve", "--workers", "2")
    world.wait_until_ready(service)
    wait_for(lambda: answers(world), seconds=PATIENCE_SECONDS)
    [first] = generative_processes(world.folder)

    os.kill(first, signal.SIGKILL)
    wait_for(lambda: generative_processes(world.folder) not in ([], [first]), seconds=PATIENCE_SECONDS)
    wait_for(lambda: answers(world), seconds=PATIENCE_SECONDS)
    assert len(generative_processes(world.folder)) == 1
    assert world.http.post("/classify", json={"text": "手机开不了机"}).status_code == 200
    # The lower one of both workers, one of which may have told it a second ago.
    ready = re.compile(r"^intentloop_generative_ready 1\.0$", flags=re.MULTILINE)
    wait_for(lambda: ready.search(world.http.get("/metrics").text), what="both workers")

    assert stop(service) == 0
    wait_for(lambda: not generative_processes(world.folder), seconds=PATIENCE_SECONDS)


def test_the_process_ends_with_a_service_that_is_killed(world: Installation) -> None:
    service = world.start("serve", "--workers", "2")
    world.wait_until_ready(service)
    wait_for(lambda: generative_processes(world.folder), seconds=PATIENCE_SECONDS)
    service.kill()
    service.wait()
    wait_for(lambda: not generative_processes(world.folder), seconds=PATIENCE_SECONDS)
