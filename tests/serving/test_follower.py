"""The follower: it works when nudged, until nothing is left, and survives what goes wrong."""

import threading
import time

import pytest

from app.serving.follower import Follower


class Pile:
    """Work that takes one piece at a time."""

    def __init__(self, pieces: int = 0) -> None:
        self.pieces = pieces
        self.done: list[float] = []
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> bool:
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.pieces == 0:
            return False
        self.pieces -= 1
        self.done.append(time.monotonic())
        return self.pieces > 0


def _until(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_an_earlier_process_left_is_done_at_the_start() -> None:
    pile = Pile(3)
    follower = Follower(pile, every_seconds=60, name="test")
    follower.start()
    _until(lambda: pile.pieces == 0)
    follower.stop()


def test_nudge_is_followed_at_once_and_until_nothing_is_left() -> None:
    pile = Pile()
    follower = Follower(pile, every_seconds=60, name="test")
    follower.start()
    _until(lambda: pile.calls == 1)
    pile.pieces = 5
    start = time.monotonic()
    follower.nudge()
    _until(lambda: pile.pieces == 0)
    assert pile.done[-1] - start < 1.0
    follower.stop()


def test_without_a_nudge_it_looks_all_the_same() -> None:
    pile = Pile()
    follower = Follower(pile, every_seconds=0.02, name="test")
    follower.start()
    _until(lambda: pile.calls >= 4)
    follower.stop()


def test_nudges_within_the_gathering_time_are_one_piece_of_work() -> None:
    pile = Pile()
    follower = Follower(pile, every_seconds=60, gather_seconds=0.1, name="test")
    follower.start()
    _until(lambda: pile.calls == 1)
    for _ in range(20):
        follower.nudge()
        time.sleep(0.002)
    _until(lambda: pile.calls >= 2)
    time.sleep(0.3)
    assert pile.calls <= 3
    follower.stop()


def test_error_is_survived_and_the_work_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    pile = Pile(2)
    pile.error = ValueError("a text that nobody may read")
    follower = Follower(pile, every_seconds=0.02, name="test")
    follower.start()
    _until(lambda: pile.calls >= 3)
    pile.error = None
    _until(lambda: pile.pieces == 0)
    follower.stop()
    assert "ValueError" in caplog.text
    assert "nobody may read" not in caplog.text


def test_stopping_does_what_is_there_and_ends_the_thread() -> None:
    pile = Pile()
    follower = Follower(pile, every_seconds=60, gather_seconds=30, name="ends")
    follower.start()
    start = time.monotonic()
    pile.pieces = 3
    follower.stop()
    assert pile.pieces == 0
    assert time.monotonic() - start < 5
    assert not any(thread.name == "ends" for thread in threading.enumerate())


def test_stopping_what_never_started_is_nothing() -> None:
    Follower(Pile(), every_seconds=60, name="test").stop()


def test_while_it_is_held_it_begins_nothing_and_afterwards_it_does_all() -> None:
    pile = Pile()
    follower = Follower(pile, every_seconds=60, name="test")
    follower.start()
    _until(lambda: pile.calls == 1)
    with follower.held(), follower.held():
        pile.pieces = 3
        follower.nudge()
        time.sleep(0.1)
        assert pile.pieces == 3
    _until(lambda: pile.pieces == 0)
    follower.stop()


def test_whoever_holds_it_for_ever_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.serving.follower.MOST_HELD_SECONDS", 0.02)
    pile = Pile(3)
    follower = Follower(pile, every_seconds=60, name="test")
    with follower.held():
        follower.start()
        _until(lambda: pile.pieces == 0)
        follower.stop()


def test_stopped_while_it_is_held_it_finishes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.serving.follower.MOST_HELD_SECONDS", 3600.0)
    pile = Pile(3)
    follower = Follower(pile, every_seconds=60, name="test")
    with follower.held():
        follower.start()
        follower.stop()
        assert pile.pieces == 0
