"""The log: one commit for all that waits, the disk while the database is away, every question in the database once."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.errors import IntentError, Overloaded, RequestIdConflict, SpoolFull, Unavailable
from app.intent.questions import AskedQuestion
from app.serving.log import LogWriter, Replayed, Spooled
from app.serving.spool import Spool, waiting
from tests.serving.spooling import Away, Obedient, question

PATIENCE = 0.2


@pytest.fixture
def database() -> Obedient:
    return Obedient()


@contextmanager
def writing(database: Obedient, folder: Path | None, **changes: Any) -> Iterator[LogWriter[AskedQuestion]]:
    """A log on this database; without a folder it is strict."""
    spool = None if folder is None else Spool(folder / "spool", max_bytes=1 << 28, max_rows=changes.pop("rows", 10**6))
    values: dict[str, Any] = {"size": 500, "capacity": 1000, "patience_seconds": PATIENCE}
    log = LogWriter(database.parts, spool=spool, **(values | changes))
    try:
        yield log
    finally:
        database.flows.set()
        log.close()


def ask(log: LogWriter[AskedQuestion], *questions: AskedQuestion) -> list[Any]:
    return asyncio.run(_submitted(log, questions))


async def _submitted(log: LogWriter[AskedQuestion], questions: Any) -> list[Any]:
    return await log.submit(questions)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def numbers(database: Obedient) -> list[str]:
    return [str(row.request_id) for row in database.rows]


def test_what_waits_is_one_commit_and_the_answers_come_in_order(database: Obedient, tmp_path: Path) -> None:
    async def run(log: LogWriter[AskedQuestion]) -> list[Any]:
        database.flows.clear()
        first = asyncio.create_task(log.submit([question(0)]))
        while not log._writing:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(log.submit([question(n)])) for n in range(1, 9)]
        while log.waiting < 8:
            await asyncio.sleep(0.001)
        database.flows.set()
        return list(await asyncio.gather(first, *others))

    with writing(database, tmp_path, patience_seconds=20.0) as log:
        answers = asyncio.run(run(log))
    assert [answer[0].request_id for answer in answers] == [f"r{n}" for n in range(9)]
    assert database.writes == [1, 8]


def test_while_the_database_is_away_answers_are_spooled_and_replayed_in_order(
    database: Obedient, tmp_path: Path
) -> None:
    with writing(database, tmp_path) as log:
        assert ask(log, question(0)) == database.rows
        database.away.set()
        answers = [ask(log, question(number))[0] for number in range(1, 6)]
        assert all(isinstance(answer, Spooled) for answer in answers)
        assert [answer.question.request_id for answer in answers] == ["r1", "r2", "r3", "r4", "r5"]
        assert log.degraded_since is not None
        assert log.can_answer
        assert log.spooled[0] == 5 == waiting(tmp_path / "spool")
        assert numbers(database) == ["r0"]
        database.away.clear()
        until(lambda: log.degraded_since is None)
        assert numbers(database) == ["r0", "r1", "r2", "r3", "r4", "r5"]
        assert log.spooled == (0, 0)
        assert ask(log, question(6)) == database.rows[-1:]
        assert (log.tally.spooled, log.tally.replayed, log.tally.degradations) == (5, 5, 1)


def test_a_write_that_hangs_holds_nobody_and_is_one_row_when_it_comes_through_after_all(
    database: Obedient, tmp_path: Path
) -> None:
    with writing(database, tmp_path) as log:
        database.flows.clear()
        [answer] = ask(log, question(1))
        assert isinstance(answer, Spooled)
        assert isinstance(ask(log, question(2))[0], Spooled)
        database.flows.set()
        until(lambda: log.degraded_since is None)
        assert sorted(numbers(database)) == ["r1", "r2"]
        assert (log.tally.replayed, log.tally.duplicates) == (1, 1)


def test_under_load_it_finds_its_way_back_and_every_question_is_there_once(database: Obedient, tmp_path: Path) -> None:
    asked: list[str] = []
    stop = threading.Event()

    async def load(log: LogWriter[AskedQuestion], client: int) -> None:
        while not stop.is_set():
            one = question(len(asked))
            asked.append(str(one.request_id))
            [answer] = await log.submit([one])
            assert isinstance(answer, AskedQuestion | Spooled)

    async def run(log: LogWriter[AskedQuestion]) -> None:
        clients = [asyncio.create_task(load(log, client)) for client in range(8)]
        for _ in range(3):
            await asyncio.sleep(0.05)
            database.away.set()
            while log.spooled[0] < 20:
                await asyncio.sleep(0.005)
            database.away.clear()
            deadline = time.monotonic() + 20
            while log.degraded_since is not None:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)
        stop.set()
        await asyncio.gather(*clients)

    with writing(database, tmp_path) as log:
        asyncio.run(run(log))
        until(lambda: not log.spooled[0])
    assert sorted(numbers(database)) == sorted(asked)
    assert log.tally.degradations >= 3


def test_the_last_ones_are_replayed_although_one_more_is_asked_each_time(database: Obedient, tmp_path: Path) -> None:
    """Spooled meanwhile, it would be what the next replay finds, and so on for ever."""
    asking: list[threading.Thread] = []
    replay = database.replay

    def one_more(spooled: Sequence[AskedQuestion]) -> Replayed:
        before = log.spooled[0]
        asking.append(threading.Thread(target=ask, args=(log, question(100 + len(asking)))))
        asking[-1].start()
        deadline = time.monotonic() + PATIENCE / 4
        while log.spooled[0] == before and time.monotonic() < deadline:
            time.sleep(0.002)
        return replay(spooled)

    database.replay = one_more  # type: ignore[method-assign]
    with writing(database, tmp_path) as log:
        database.away.set()
        ask(log, question(1))
        database.away.clear()
        until(lambda: log.degraded_since is None, seconds=10)
        assert len(asking) <= 3
        for thread in asking:
            thread.join(10)
    assert len(numbers(database)) == 1 + len(asking)


def test_a_repeated_request_gets_its_first_answer_while_it_waits(database: Obedient, tmp_path: Path) -> None:
    with writing(database, tmp_path) as log:
        database.away.set()
        first = question(1)
        same = question(1, body_hash=first.body_hash)
        other = question(1, body_hash="f" * 64)
        [answer] = ask(log, first)
        again, refused, together, twin = ask(log, same, other, question(2), question(2))
        assert answer == again == Spooled(first)
        assert isinstance(refused, RequestIdConflict)
        assert together == twin
        assert log.spooled[0] == 2


def test_a_full_spool_refuses_and_says_so_until_the_database_is_back(database: Obedient, tmp_path: Path) -> None:
    with writing(database, tmp_path, rows=2) as log:
        database.away.set()
        ask(log, question(1), question(2))
        [refused] = ask(log, question(3))
        assert isinstance(refused, SpoolFull)
        assert not log.can_answer
        # What was spooled before is answered again.
        assert isinstance(ask(log, question(1))[0], Spooled)
        database.away.clear()
        until(lambda: log.degraded_since is None)
        assert log.can_answer
        assert numbers(database) == ["r1", "r2"]


@pytest.mark.parametrize("how", ["away", "hanging"])
def test_strict_answers_nothing_that_is_not_in_the_database(database: Obedient, how: str) -> None:
    with writing(database, None) as log:
        if how == "away":
            database.away.set()
        else:
            database.flows.clear()
        [answer] = ask(log, question(1))
        assert type(answer) is Unavailable
        assert not log.can_answer
        database.away.clear()
        database.flows.set()
        until(lambda: log.degraded_since is None)
        assert ask(log, question(2)) == database.rows[-1:]


def test_an_error_of_the_rows_goes_to_their_callers_and_is_no_outage(tmp_path: Path) -> None:
    class Refusing(Obedient):
        def write(self, _: Any) -> list[AskedQuestion | Exception]:
            raise ValueError("no such row")

    with writing(Refusing(), tmp_path) as log:
        assert [type(answer) for answer in ask(log, question(1), question(2))] == [ValueError, ValueError]
        assert log.degraded_since is None


def test_what_another_process_left_is_in_the_database_before_anything_new(database: Obedient, tmp_path: Path) -> None:
    database.away.set()
    with writing(database, tmp_path) as log:
        ask(log, *(question(number) for number in range(3)))
    # Closed while the database was away: what waits stays on the disk.
    assert waiting(tmp_path / "spool") == 3
    database.away.clear()
    with writing(database, tmp_path) as log:
        until(lambda: log.degraded_since is None and len(database.rows) >= 3)
        ask(log, question(3))
    assert numbers(database) == ["r0", "r1", "r2", "r3"]
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_queue_that_is_full_refuses_at_once(database: Obedient, tmp_path: Path) -> None:
    async def run(log: LogWriter[AskedQuestion]) -> None:
        with pytest.raises(Overloaded):
            await log.submit([question(number) for number in range(3)])

    with writing(database, tmp_path, capacity=2) as log:
        asyncio.run(run(log))


def test_closing_answers_what_is_queued_even_while_a_write_hangs(database: Obedient, tmp_path: Path) -> None:
    async def run(log: LogWriter[AskedQuestion]) -> list[Any]:
        database.flows.clear()
        answers: list[Awaitable[Any]] = [asyncio.create_task(log.submit([question(n)])) for n in range(3)]
        while not (log._writing and log.waiting == 2):
            await asyncio.sleep(0.001)
        await asyncio.to_thread(log.close)
        with pytest.raises(IntentError):
            await log.submit([question(9)])
        return [answer[0] for answer in await asyncio.gather(*answers)]

    with writing(database, tmp_path, size=1) as log:
        answers = asyncio.run(run(log))
        assert all(isinstance(answer, Spooled) for answer in answers)
        assert waiting(tmp_path / "spool") == 3


def test_nobody_is_told_before_the_rows_are_committed(database: Obedient, tmp_path: Path) -> None:
    """The ledger that this whole file rests on: an answer means a row, or a frame on the disk."""

    async def run(log: LogWriter[AskedQuestion]) -> None:
        for number in range(20):
            if number == 10:
                database.away.set()
            [answer] = await log.submit([question(number)])
            if isinstance(answer, Spooled):
                assert waiting(tmp_path / "spool") == number - 9
            else:
                assert numbers(database)[-1] == f"r{number}"

    with writing(database, tmp_path) as log:
        asyncio.run(run(log))


def test_replay_goes_on_after_the_database_left_in_its_middle(database: Obedient, tmp_path: Path) -> None:
    class Leaving(Obedient):
        left = False

        def replay(self, spooled: Any) -> Any:
            found = super().replay(spooled)
            if not self.left:
                # It was committed, and we never heard of it.
                self.left = True
                raise Away
            return found

    leaving = Leaving()
    with writing(leaving, tmp_path) as log:
        leaving.away.set()
        ask(log, *(question(number) for number in range(5)))
        leaving.away.clear()
        until(lambda: log.degraded_since is None)
        assert numbers(leaving) == ["r0", "r1", "r2", "r3", "r4"]
        assert log.tally.duplicates == 5
