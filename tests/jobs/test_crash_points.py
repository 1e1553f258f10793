"""Kill the work on a batch before every commit and every change of a file: it is whole, and the retry succeeds."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import jieba
import pytest
from sqlalchemy import Connection, Engine, event

from app.__main__ import main
from app.db.session import READ_ONLY
from app.services import batches
from tests.journeys.processes import Installation, installation
from tests.journeys.test_kills import workshops
from tests.journeys.worlds import check_whole, label_texts

CHANGES = ("os.rename", "shutil.rmtree", "subprocess.Popen")


@pytest.mark.timeout(900)
def test_work_that_is_killed_at_any_point_is_whole_and_its_retry_succeeds(databases, tmp_path):
    # Once here, so that no child spends its second on it.
    jieba.initialize()
    points: list[str] = []
    for number in range(1, 40):
        folder = tmp_path / str(number)
        folder.mkdir()
        with installation(folder, databases.fresh("sqlite", folder), RETRY_DELAYS_SECONDS="[0, 0, 0, 0]") as world:
            label_texts(world, 10)
            if not killed(world, number):
                break
            points.append((folder / "point").read_text())
            check_whole(world)
            recover(world)
            check_whole(world)
            assert set(world.training_states()) == {"used"}, points[-1]
            assert [row.training_status for row in world.batches()][-1] == "completed", points[-1]
            assert world.batches()[-1].outcome == "activated"
            assert len(list(world.artifacts.glob("[0-9a-f]*"))) <= 2
    # Nobody killed this one, so every point was tried; and the ones that matter are among them.
    assert set(world.training_states()) == {"used"}
    assert workshops(world) == []
    kinds = [point.split(":")[0] for point in points]
    assert kinds.count("commit") >= 6
    assert set(CHANGES) <= set(kinds)


def killed(world: Installation, number: int) -> bool:
    """Run `intentloop job train_model` in a child that kills itself at this point; whether it came to that."""
    child = os.fork()
    if child == 0:
        run_in_child(world, number)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, world.said()
    return os.WIFSIGNALED(status)


def run_in_child(world: Installation, number: int) -> None:
    """Never returns."""
    status = 70
    try:
        os.environ.update(world.environment)
        with world.log.open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.argv = ["intentloop", "job", "train_model"]
        die_at(number, world.folder)
        main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


def die_at(number: int, folder: Path) -> None:
    """Count commits and changes of the main thread, and die at the one of this number, before it happens."""
    left, ours = [number], threading.main_thread()

    def point(name: str) -> None:
        if threading.current_thread() is not ours:
            return
        left[0] -= 1
        if left[0] == 0:
            (folder / "point").write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(name: str, arguments: tuple) -> None:
        if name in CHANGES and left[0] > 0:
            point(f"{name}: {arguments[0]!r}")

    @event.listens_for(Engine, "commit")
    def committed(connection: Connection) -> None:
        if not connection.get_execution_options().get(READ_ONLY):
            point("commit")

    sys.addaudithook(heard)


def recover(world: Installation) -> None:
    """What another clock does: give the dead one's batch up for lost, and open or run what is due."""
    lost_after = 0.2
    time.sleep(lost_after)
    world.work(batches.fail_lost, lost_after_seconds=lost_after)
    assert not killed(world, 10_000)
