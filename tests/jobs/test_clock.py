"""Clocks as processes: every slot once, whatever runs beside, dies, sleeps or loses its database."""

import os
import signal
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from app.services import runs
from tests import servers
from tests.journeys.processes import NEVER, Installation, installation, kill, pids, stop, wait_for
from tests.journeys.worlds import label_texts

SECONDS = 5


def slots_of(world: Installation, job: str) -> list[datetime]:
    return sorted(run.scheduled_for for run in world.runs() if run.job == job)


def start_clocks(world: Installation, count: int) -> list["subprocess.Popen[bytes]"]:
    clocks = [world.start("clock") for _ in range(count)]
    wait_for(lambda: len(alive_clocks(world)) == count, what=f"{count} clocks")
    return clocks


def alive_clocks(world: Installation) -> list:
    return list(world.work.read(runs.replicas, role="clock", alive_seconds=15))


@pytest.mark.parametrize(("backend", "count"), [("sqlite", 4), ("postgresql", 4), ("mariadb", 2)])
def test_some_clocks_on_one_database_run_every_slot_once(databases, tmp_path, backend, count):
    with installation(tmp_path, databases.fresh(backend, tmp_path)) as world:
        clocks = start_clocks(world, count)
        begun = datetime.now(UTC)
        time.sleep(SECONDS)
        ended = datetime.now(UTC)
        for clock in clocks:
            assert stop(clock) == 0
        # One that stops in order says so: nobody is told for another quarter of a minute that a clock runs.
        assert alive_clocks(world) == []
        for job in ("train_model", "select_questions"):
            seen = slots_of(world, job)
            assert all(times == 1 for times in Counter(seen).values())
            due = {moment for moment in every_second(begun, ended) if moment <= ended - timedelta(seconds=1)}
            late = [
                run
                for run in world.runs()
                if run.job == job and run.started_at - run.scheduled_for > timedelta(seconds=1)
            ]
            # A slot is left out only where a run took longer than a second, and then the next one stands for it.
            assert len(due - set(seen)) <= len(late) + 1
        assert {run.outcome for run in world.runs()} == {"done"}
        assert not world.processes()
        assert "Traceback" not in world.said()


def every_second(begun: datetime, ended: datetime) -> list[datetime]:
    first = begun.replace(microsecond=0) + timedelta(seconds=1)
    return [first + timedelta(seconds=number) for number in range(int((ended - first).total_seconds()) + 1)]


def test_the_run_of_a_killed_clock_is_marked_died_and_missed_slots_are_one(databases, tmp_path):
    """The job hangs where every job begins, at the database; SQLite's write lock is ours meanwhile."""
    url = databases.fresh("sqlite", tmp_path)
    with installation(tmp_path, url, TRAIN_CRON=NEVER, PURGE_CRON=NEVER, SELECT_CRON="* * * * * *") as world:
        clock = start_clocks(world, 1)[0]
        wait_for(lambda: hold_a_run(world), what="a run to hold", every=0.0)
        kill(clock)
        running = [run for run in world.runs() if run.outcome == "running"]
        assert len(running) == 1
        time.sleep(2.5)  # several slots pass, and the silence is long enough
        missed_from = datetime.now(UTC)
        other = start_clocks(world, 1)[0]
        died = wait_for(lambda: [run for run in world.runs() if run.outcome == "died"], what="the death")
        assert [run.id for run in died] == [running[0].id]
        assert "no sign of life" in died[0].error
        assert died[0].finished_at is not None
        stop(other)
        caught_up = [run for run in world.runs() if running[0].scheduled_for < run.scheduled_for < missed_from]
        assert len(caught_up) <= 1


def hold_a_run(world: Installation) -> bool:
    """Stop the clock between the begin of a run and its end: try until the moment is met."""
    (clock,) = (pid for pid in world.processes() if pid not in world.trainers())
    os.kill(clock, signal.SIGSTOP)
    if any(run.outcome == "running" for run in world.runs()):
        return True
    os.kill(clock, signal.SIGCONT)
    return False


def test_a_clock_that_starts_late_runs_the_last_missed_slot_once_and_older_ones_never(databases, tmp_path):
    url = databases.fresh("sqlite", tmp_path)
    minute = datetime.now(UTC) - timedelta(minutes=20)
    within, beyond = f"{minute.minute} {minute.hour} * * *", f"{minute.minute} {(minute.hour - 3) % 24} * * *"
    with installation(tmp_path, url, TRAIN_CRON=NEVER, SELECT_CRON=within, PURGE_CRON=beyond) as world:
        for _ in range(2):
            clock = start_clocks(world, 1)[0]
            wait_for(lambda: world.runs(), what="the missed slot")
            time.sleep(0.5)
            stop(clock)
        (run,) = world.runs()
        assert (run.job, run.outcome) == ("select_questions", "done")
        assert run.scheduled_for == minute.replace(second=0, microsecond=0)


def test_a_clock_lives_through_a_database_that_is_away_and_its_batch_too(tmp_path):
    """PostgreSQL is stopped in the middle of a training and started again 6 s later."""
    with servers.postgresql() as url:
        from app.db.schema import migrate
        from app.db.session import UnitOfWork, connect
        from app.services import batches, domains

        engine = connect(url)
        migrate(engine)
        UnitOfWork(engine)(domains.ensure_default)
        engine.dispose()
        with installation(tmp_path, url, LOST_AFTER_SECONDS=30, SELECT_CRON="* * * * * *", TRAIN_CRON=NEVER) as world:
            label_texts(world, 12)
            clock = start_clocks(world, 1)[0]

            def opened(session):
                config = {"folds": 12, "strengths": [n / 2 for n in range(1, 60)], "tolerance": 1e-5}
                batch = batches.open_batch(session, "default", opened_by="person", config=config)
                return batches.run(session, batch.batch_id).batch_id

            world.work(opened)
            wait_for(lambda: world.batches()[0].progress > 0, what="the training")
            with away(url):
                time.sleep(6)
                assert clock.poll() is None
            wait_for(lambda: answers(world), what="the server")
            back = datetime.now(UTC)
            wait_for(lambda: world.batches()[0].training_status == "completed", seconds=60, what="the version")
            assert world.batches()[0].attempt == 1
            wait_for(lambda: [s for s in slots_of(world, "select_questions") if s > back], what="new slots")
            said = world.said()
            assert "Traceback" not in said
            # Said once by each thread, not twice a second.
            assert said.count(" waits: the database refused") <= 12
            assert stop(clock) == 0


def answers(world: Installation) -> bool:
    try:
        return bool(world.batches())
    except OperationalError:
        return False


class away:  # noqa: N801
    """The server at this URL is gone inside the block: SIGSTOP would leave clients hanging, so it is really stopped."""

    def __init__(self, url: str) -> None:
        self._port = url.rsplit(":", 1)[1].split("/")[0]

    def __enter__(self) -> None:
        self._pid = next(pid for pid in _servers() if f"-p\0{self._port}\0".encode() in _cmdline(pid))
        self._command = _cmdline(self._pid).decode().rstrip("\0").split("\0")
        status = Path(f"/proc/{self._pid}/status").read_text()
        self._uid = int(status.split("Uid:")[1].split()[0])
        self._gid = int(status.split("Gid:")[1].split()[0])
        self._cwd = Path(f"/proc/{self._pid}/cwd").readlink()
        os.kill(self._pid, signal.SIGQUIT)  # at once, as in a crash
        wait_for(lambda: not _cmdline(self._pid), what="the server's end")

    def __exit__(self, *_: object) -> None:
        self.process = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            user=self._uid,
            group=self._gid,
            extra_groups=[],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _restarted.append(self.process)


_restarted: list["subprocess.Popen[bytes]"] = []


@pytest.fixture(autouse=True)
def _no_server_is_left():
    yield
    for process in _restarted:
        process.terminate()
        process.wait(timeout=30)
    _restarted.clear()


def _servers() -> list[int]:
    return [pid for pid in pids() if b"postgres" in _cmdline(pid)]


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
