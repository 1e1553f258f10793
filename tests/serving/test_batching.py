"""The greedy batcher: order, room, errors to their caller alone, and an end that leaves nobody waiting."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from app.errors import CallerGone, Overloaded, Unavailable
from app.serving.batching import GreedyBatcher


class Gate:
    """Work that doubles numbers, waits while the gate is shut, and remembers the lists it was given."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.lists: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.open.wait(10)
        self.lists.append(list(items))
        return [ValueError(str(item)) if item < 0 else item * 2 for item in items]


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def _until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.001)


def test_results_come_in_the_order_of_the_items_and_errors_in_their_place(gate: Gate) -> None:
    async def run() -> None:
        batcher = GreedyBatcher(gate, size=3, capacity=100, name="test")
        results = await batcher.submit([1, -2, 3, 4, -5])
        batcher.close()
        assert [results[i] for i in (0, 2, 3)] == [2, 6, 8]
        assert [type(results[i]) for i in (1, 4)] == [ValueError, ValueError]
        assert str(results[4]) == "-5"

    asyncio.run(run())


def test_what_waits_is_taken_in_one_go_up_to_the_size_and_in_order(gate: Gate) -> None:
    async def run() -> None:
        batcher = GreedyBatcher(gate, size=4, capacity=100, name="test")
        gate.open.clear()
        first = asyncio.create_task(batcher.submit([0]))
        await _until(lambda: batcher.waiting == 0 and not first.done())
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.submit([number])) for number in range(1, 11)]
        await _until(lambda: batcher.waiting >= 9)
        gate.open.set()
        assert await asyncio.gather(first, *others) == [[number * 2] for number in range(11)]
        batcher.close()

    asyncio.run(run())
    assert [item for taken in gate.lists for item in taken] == list(range(11))
    assert max(len(taken) for taken in gate.lists) == 4
    assert len(gate.lists) <= 5


def test_one_item_does_not_wait_for_company(gate: Gate) -> None:
    async def run() -> float:
        batcher = GreedyBatcher(gate, size=100, capacity=100, name="test")
        await batcher.submit([1])
        start = time.monotonic()
        for _ in range(20):
            await batcher.submit([1])
        batcher.close()
        return time.monotonic() - start

    assert asyncio.run(run()) < 1.0


def test_more_than_the_capacity_is_refused_at_once_and_whole(gate: Gate) -> None:
    async def run() -> None:
        batcher = GreedyBatcher(gate, size=1, capacity=3, name="test")
        gate.open.clear()
        busy = asyncio.create_task(batcher.submit([0]))
        await _until(lambda: len(batcher._waiting) == 0)
        waiting = asyncio.create_task(batcher.submit([1, 2]))
        await _until(lambda: batcher.waiting == 2)
        with pytest.raises(Overloaded):
            await batcher.submit([3, 4])
        assert batcher.waiting == 2
        fits = asyncio.create_task(batcher.submit([5]))
        await _until(lambda: batcher.waiting == 3)
        gate.open.set()
        assert await asyncio.gather(busy, waiting, fits) == [[0], [2, 4], [10]]
        batcher.close()

    asyncio.run(run())


def test_error_of_the_whole_list_reaches_all_of_it_and_the_thread_lives_on() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise KeyError(13)
        return list(items)

    async def run() -> None:
        batcher = GreedyBatcher(work, size=10, capacity=100, name="test")
        assert [type(result) for result in await batcher.submit([13, 1])] == [KeyError, KeyError]
        assert await batcher.submit([1, 2]) == [1, 2]
        batcher.close()

    asyncio.run(run())


def test_work_that_forgets_a_result_fails_its_callers_and_not_the_thread() -> None:
    answers: list[list[int]] = [[1], [1, 2]]

    async def run() -> None:
        batcher = GreedyBatcher(lambda _: answers.pop(0), size=10, capacity=100, name="test")
        assert [type(result) for result in await batcher.submit([1, 2])] == [RuntimeError, RuntimeError]
        assert await batcher.submit([1, 2]) == [1, 2]
        batcher.close()

    asyncio.run(run())


def test_closing_finishes_what_is_queued_and_takes_nothing_more(gate: Gate) -> None:
    async def run() -> None:
        batcher = GreedyBatcher(gate, size=1, capacity=100, name="test")
        gate.open.clear()
        tasks = [asyncio.create_task(batcher.submit([number])) for number in range(5)]
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await _until(lambda: batcher._closed)
        with pytest.raises(Unavailable):
            await batcher.submit([9])
        gate.open.set()
        await closing
        assert await asyncio.gather(*tasks) == [[number * 2] for number in range(5)]

    asyncio.run(run())
    assert not any(thread.name == "test" for thread in threading.enumerate())


def test_item_whose_caller_went_away_is_worked_through_all_the_same(gate: Gate) -> None:
    """What was handed over is done: a question whose client hung up is logged."""

    async def run() -> None:
        batcher = GreedyBatcher(gate, size=10, capacity=100, name="test")
        gate.open.clear()
        gone = asyncio.create_task(batcher.submit([1]))
        stays = asyncio.create_task(batcher.submit([2]))
        await asyncio.sleep(0.01)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.open.set()
        assert await stays == [4]
        batcher.close()

    asyncio.run(run())
    assert sorted(item for taken in gate.lists for item in taken) == [1, 2]


def test_loop_that_has_closed_does_not_stop_the_thread(gate: Gate) -> None:
    batcher = GreedyBatcher(gate, size=10, capacity=100, name="test")
    gate.open.clear()

    async def leave() -> None:
        asyncio.get_running_loop().create_task(batcher.submit([1]))
        await asyncio.sleep(0.01)

    asyncio.run(leave())
    gate.open.set()
    assert asyncio.run(_submit(batcher, [2])) == [4]
    batcher.close()


async def _submit(batcher: GreedyBatcher[int, int], items: Sequence[int]) -> list[int | BaseException]:
    return await batcher.submit(items)


def test_nothing_submitted_has_no_results(gate: Gate) -> None:
    batcher = GreedyBatcher(gate, size=10, capacity=100, name="test")
    assert asyncio.run(_submit(batcher, [])) == []
    batcher.close()


def test_item_whose_caller_went_away_while_it_waited_takes_no_slot(gate: Gate) -> None:
    async def run() -> None:
        batcher = GreedyBatcher(gate, size=2, capacity=100, name="test", skips_abandoned=True)
        gate.open.clear()
        busy = asyncio.create_task(batcher.submit([0]))
        await _until(lambda: batcher.waiting == 0 and not busy.done())
        await asyncio.sleep(0.01)
        hung_up = False
        cancelled = asyncio.create_task(batcher.submit([1]))
        left = asyncio.create_task(batcher.submit([2, 3], gone=lambda: hung_up))
        stays = [asyncio.create_task(batcher.submit([number], gone=lambda: False)) for number in (4, 5)]
        await _until(lambda: batcher.waiting == 5)
        cancelled.cancel()
        hung_up = True
        await asyncio.sleep(0.01)
        gate.open.set()
        assert await asyncio.gather(*stays) == [[8], [10]]
        assert [type(result) for result in await left] == [CallerGone, CallerGone]
        batcher.close()

    asyncio.run(run())
    assert gate.lists == [[0], [4, 5]]
