"""Writers of an SQLite file stand in line, in one process and across processes; nobody waits for ever."""

import multiprocessing
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from app.db.session import connect
from app.db.turns import Turn, turn_of


def _hold(file: Path, held: Any, let_go: Any) -> None:
    with Turn(file):
        held.set()
        let_go.wait(60)


def _count(file: Path, counter: Path, times: int) -> None:
    turn = Turn(file, patience_seconds=120)
    for _ in range(times):
        with turn:
            # Read, then write: whoever came in between would be lost.
            counter.write_text(str(int(counter.read_text()) + 1))


def test_processes_take_turns(tmp_path: Path) -> None:
    file, counter = tmp_path / "turn", tmp_path / "counter"
    counter.write_text("0")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_count, args=(file, counter, 200)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert counter.read_text() == "600"


def test_threads_take_turns(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    turn = Turn(tmp_path / "turn")

    def count() -> None:
        for _ in range(200):
            with turn:
                counter.write_text(str(int(counter.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "800"


def test_a_turn_that_was_never_given_back_is_waited_for_and_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "turn"
    spawn = multiprocessing.get_context("spawn")
    held, let_go = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(file, held, let_go))
    holder.start()
    assert held.wait(60)

    started = time.monotonic()
    with Turn(file, patience_seconds=0.3):
        assert time.monotonic() - started >= 0.3
        assert holder.is_alive()

    # A process that dies gives it back.
    holder.kill()
    holder.join(60)
    with Turn(file, patience_seconds=600):
        pass


def test_only_an_sqlite_file_has_turns(database_url: str) -> None:
    engine = connect(database_url)
    assert isinstance(turn_of(engine), Turn if engine.dialect.name == "sqlite" else nullcontext)
    engine.dispose()


def test_an_error_gives_the_turn_back(tmp_path: Path) -> None:
    turn = Turn(tmp_path / "turn")
    with pytest.raises(KeyError), turn:
        raise KeyError
    with turn:
        pass
