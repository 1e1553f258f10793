"""Accepting beside others: who holds more leaves what comes for a moment, and nothing is left lying."""

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.api import accepting
from app.api.accepting import Acceptor, Shares


class Made:
    """Counts the connections that a process was given."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> asyncio.Protocol:
        self.count += 1
        return asyncio.Protocol()


def _shares(folder: Path, *, other: int) -> Shares:
    Shares.make(folder / "shares", 2)
    Shares(folder / "shares", place=1).tell(other)
    return Shares(folder / "shares", place=0)


def _listener() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen(16)
    return made


def _run(scene: Callable[[Callable[..., Acceptor], socket.socket, Made], Any], folder: Path, *, other: int) -> None:
    listener, made = _listener(), Made()

    def acceptor(*, held: int) -> Acceptor:
        return Acceptor(listener, made, shares=_shares(folder, other=other), held=lambda: held)

    async def play() -> None:
        await scene(acceptor, listener, made)

    asyncio.run(play())
    listener.close()


async def _until(made: Made, count: int) -> None:
    for _ in range(500):
        if made.count == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{made.count} connections in place of {count}")


@pytest.mark.parametrize(("held", "other", "leaves"), [(3, 0, True), (2, 0, False), (20, 16, False), (21, 16, True)])
def test_who_holds_more_than_another_leaves_it_for_a_moment_and_takes_it_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, other: int, leaves: bool
) -> None:
    monkeypatch.setattr(accepting, "LEAVE_SECONDS", 0.3)

    async def scene(acceptor: Callable[..., Acceptor], listener: socket.socket, made: Made) -> None:
        accepts = acceptor(held=held)
        with socket.create_connection(listener.getsockname()):
            await asyncio.sleep(0.1)
            assert made.count == (0 if leaves else 1)
            await _until(made, 1)
        accepts.close()

    _run(scene, tmp_path, other=other)


def test_what_has_come_when_it_closes_is_accepted(tmp_path: Path) -> None:
    async def scene(acceptor: Callable[..., Acceptor], listener: socket.socket, made: Made) -> None:
        accepts = acceptor(held=0)
        waiting = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        accepts.close()
        await _until(made, 3)
        for connection in waiting:
            connection.close()

    _run(scene, tmp_path, other=0)


def test_without_room_for_another_file_it_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "NO_ROOM_SECONDS", 0.05)
    refusals = [OSError(errno.EMFILE, "too many files")] * 2
    accept = socket.socket.accept

    def refuse(listener: socket.socket) -> Any:
        if refusals:
            raise refusals.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", refuse)

    async def scene(acceptor: Callable[..., Acceptor], listener: socket.socket, made: Made) -> None:
        accepts = acceptor(held=0)
        with socket.create_connection(listener.getsockname()):
            await _until(made, 1)
        assert refusals == []
        accepts.close()

    _run(scene, tmp_path, other=0)


def test_what_it_holds_is_told_to_the_others(tmp_path: Path) -> None:
    async def scene(acceptor: Callable[..., Acceptor], _: socket.socket, __: Made) -> None:
        accepts = acceptor(held=7)
        accepts.tell()
        assert Shares.least_of_others(Shares(tmp_path / "shares", place=1)) == 7
        accepts.close()

    _run(scene, tmp_path, other=0)
