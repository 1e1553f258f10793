"""Clients that keep asking over their own connections, and remember when each answer came and what it said."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import uvloop

ANSWER_SECONDS = 30.0
# Of no two connections the same: the next one may lead to another worker, which is behind by up to a second.
_connections = itertools.count()


class Answer(NamedTuple):
    """One request, by the clock of this machine. A connection stays with one worker as long as it lives."""

    connection: int
    start: float
    end: float
    status: int
    label: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer."""

    at: float
    kind: str


class Clients:
    """So many connections, spread over the ports, asking from a thread of their own until the block ends."""

    def __init__(self, ports: Sequence[int], count: int) -> None:
        self._ports = ports
        self._count = count
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="clients", daemon=True)
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(timeout=2 * ANSWER_SECONDS)

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(number) for number in range(self._count)))

    async def _ask(self, number: int) -> None:
        port, asked = self._ports[number % len(self._ports)], 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connection = next(_connections)
        while not self._ending.is_set():
            asked += 1
            body = json.dumps({"text": f"question {number} {asked % 5000}"}).encode()
            start = time.time()
            try:
                writer.write(
                    b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                status, found = await asyncio.wait_for(_answer(reader), ANSWER_SECONDS)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                self.failures.append(Failure(start, type(error).__name__))
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                connection = next(_connections)
                continue
            self.answers.append(
                Answer(connection, start, time.time(), status, found.get("label"), found.get("model_version"))
            )
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    return int(head[9:12]), json.loads(body)
