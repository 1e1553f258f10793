"""Connections are held to their deadlines, and a server that stops answers every request that was sent."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from fastapi import FastAPI, Request

from app.api.hot_path import GONE
from app.api.server import Server
from app.settings import Settings

WAIT_SECONDS = 30


class Running:
    """A server in a thread, with an application that answers, or waits until it may."""

    def __init__(self, **changes: Any) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.waiting = 0
        self.gone: list[bool] = []
        settings = Settings(_env_file=None, **({"idle_seconds": 20, "grace_seconds": 20} | changes))
        self.server = Server(self._app(), settings)
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started)

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/")
        async def answer(request: Request) -> dict[str, int]:
            size = len(await request.body())
            self.waiting += 1
            while not self.may_answer.is_set():
                await asyncio.sleep(0.005)
            self.gone.append(request.scope["extensions"][GONE]())
            return {"size": size}

        return app

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=WAIT_SECONDS)

    def stop(self) -> None:
        self.server.should_exit = True


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@contextmanager
def running(**changes: Any) -> Iterator[Running]:
    made = Running(**changes)
    try:
        yield made
    finally:
        made.may_answer.set()
        made.stop()
        made.thread.join(WAIT_SECONDS)
        assert not made.thread.is_alive()


REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer; status 0 where the connection ended instead."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = connection.recv(65536)
        if not more:
            return 0, {}, got
        got += more
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, body


def is_closed(connection: socket.socket) -> bool:
    with suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


def problem_of(connection: socket.socket) -> tuple[int, str]:
    status, headers, body = answer_of(connection)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert is_closed(connection)
    return status, json.loads(body)["code"]


def test_a_head_that_does_not_end_is_answered_408_however_it_drips() -> None:
    with running(head_seconds=0.5) as there, there.connect() as still, there.connect() as dripping:
        still.sendall(b"POST / HTTP/1.1\r\nHo")
        ended = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                while not ended.wait(0.05):
                    dripping.sendall(b"\r\n" if there.waiting == 0 else b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        assert problem_of(still) == (408, "request_timeout")
        # Blank lines before a request begin none: there is nothing to answer.
        status, _, _ = answer_of(dripping)
        ended.set()
        thread.join()
        assert status in (0, 408)


def test_a_connection_that_says_nothing_is_closed() -> None:
    with running(head_seconds=0.3) as there, there.connect() as silent:
        assert is_closed(silent)


def test_a_body_that_does_not_come_is_answered_408() -> None:
    with running(body_seconds=0.3) as there, there.connect() as slow:
        slow.sendall(REQUEST[:-1])
        assert problem_of(slow) == (408, "request_timeout")
        assert there.waiting == 0


def test_an_answer_that_takes_long_is_waited_for() -> None:
    with running(head_seconds=1.0, body_seconds=1.0) as there, there.connect() as patient:
        there.may_answer.clear()
        patient.sendall(REQUEST)
        wait_for(lambda: there.waiting)
        time.sleep(2.0)  # longer than every deadline, and than the look at them
        there.may_answer.set()
        assert answer_of(patient)[0] == 200


def test_a_head_that_is_too_large_is_answered_431() -> None:
    with running() as there:
        for head in (b"X: " + b"a" * 70_000, b"".join(b"X-%d: a\r\n" % number for number in range(7_000))):
            with there.connect() as large:
                large.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head)
                assert problem_of(large) == (431, "head_too_large")


def test_a_kept_connection_is_closed_when_nothing_is_asked_and_not_before() -> None:
    with running(idle_seconds=1.5, head_seconds=1.0) as there, there.connect() as kept:
        for _ in range(3):
            kept.sendall(REQUEST)
            status, headers, body = answer_of(kept)
            assert (status, body) == (200, b'{"size":2}')
            assert "connection" not in headers
        assert is_closed(kept)


def test_one_connection_too_many_is_told_so_and_the_others_stay() -> None:
    with running(max_connections=2) as there, there.connect() as first, there.connect() as second:
        for connection in (first, second):
            connection.sendall(REQUEST)
            assert answer_of(connection)[0] == 200
        with there.connect() as third:
            status, headers, body = answer_of(third)
            assert (status, json.loads(body)["code"]) == (503, "too_many_connections")
            assert int(headers["retry-after"]) >= 1
        first.sendall(REQUEST)
        assert answer_of(first)[0] == 200
        second.close()
        wait_for(lambda: len(there.server.server_state.connections) == 1)
        with there.connect() as fourth:
            fourth.sendall(REQUEST)
            assert answer_of(fourth)[0] == 200


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
def test_an_answer_without_a_body_leaves_at_once(last: bytes) -> None:
    with running() as there, there.connect() as asking:
        asking.settimeout(10)
        asking.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n" + last + b"\r\n")
        head = asking.recv(65536)
        assert head.startswith(b"HTTP/1.1 405 ")
        assert head.endswith(b"\r\n\r\n")
        if last:
            assert is_closed(asking)
        else:
            asking.sendall(REQUEST)
            assert answer_of(asking)[0] == 200


def test_slow_clients_do_not_stand_in_the_way_of_others() -> None:
    with running(head_seconds=20) as there:
        slow = [there.connect() for _ in range(200)]
        for connection in slow:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX: ")
        with there.connect() as quick:
            for _ in range(20):
                quick.sendall(REQUEST)
                assert answer_of(quick)[0] == 200
        for connection in slow:
            connection.close()


def test_a_request_in_flight_is_answered_before_the_server_ends() -> None:
    with running() as there, there.connect() as asking:
        there.may_answer.clear()
        asking.sendall(REQUEST)
        wait_for(lambda: there.waiting)
        there.stop()
        wait_for(lambda: there.server.limits.closing)
        there.may_answer.set()
        status, headers, _ = answer_of(asking)
        assert (status, headers["connection"]) == (200, "close")
        there.thread.join(WAIT_SECONDS)
        assert not there.thread.is_alive()
        with pytest.raises(ConnectionRefusedError):
            there.connect()


def test_a_kept_connection_gets_one_more_answer_after_the_end_is_announced() -> None:
    """A client whose request was under way when the server began to stop must not see its connection reset."""
    with running() as there, there.connect() as kept:
        kept.sendall(REQUEST)
        assert answer_of(kept)[0] == 200
        there.stop()
        wait_for(lambda: there.server.limits.closing)
        kept.sendall(REQUEST)
        status, headers, _ = answer_of(kept)
        assert (status, headers["connection"]) == (200, "close")
        assert is_closed(kept)


def test_while_it_drains_it_still_accepts() -> None:
    with running(drain_seconds=20) as there:
        there.stop()
        wait_for(lambda: there.server.limits.closing)
        with there.connect() as late:
            late.sendall(REQUEST)
            status, headers, _ = answer_of(late)
            assert (status, headers["connection"]) == (200, "close")
        there.server.force_exit = True


def test_the_application_learns_that_its_caller_hung_up() -> None:
    with running() as there:
        there.may_answer.clear()
        with there.connect() as leaving, there.connect() as staying:
            leaving.sendall(REQUEST)
            wait_for(lambda: there.waiting == 1)
            leaving.close()
            wait_for(lambda: len(there.server.server_state.connections) == 1)
            there.may_answer.set()
            wait_for(lambda: there.gone)
            staying.sendall(REQUEST)
            assert answer_of(staying)[0] == 200
    assert there.gone == [True, False]
