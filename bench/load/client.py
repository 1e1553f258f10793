"""Send requests over keep-alive connections as fast as the answers come; a process of its own, the same for every side.

`python -m bench.load.client --port P --clients N --seconds S --texts FILE --seed K`; the last line is one JSON object.
Sockets and bytes alone: on a machine of two cores what the generator burns is taken from the server that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "


@dataclass(slots=True)
class Seen:
    """What all connections saw together."""

    ends_at: float
    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)

    def note(self, status: bytes) -> None:
        """Count an answer by its status line."""
        if not status.startswith(b"HTTP/1.1 200"):
            name = status[9:12].decode("ascii", "replace")
            self.statuses[name] = self.statuses.get(name, 0) + 1


class Connection(asyncio.Protocol):
    """One client: the next request leaves when the answer to the last is whole."""

    def __init__(self, requests: Iterator[bytes], seen: Seen) -> None:
        self._requests = requests
        self._seen = seen
        self._got = b""
        self._sent_at = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        """Take what came; when the answer is whole, ask again."""
        self._got += data
        head, found, body = self._got.partition(HEAD_END)
        if not found:
            return
        at = head.lower().index(LENGTH) + len(LENGTH)
        if len(body) < int(head[at:].partition(b"\r")[0]):
            return
        self._got = b""
        now = time.perf_counter()
        self._seen.latencies.append(now - self._sent_at)
        self._seen.note(head)
        if now < self._seen.ends_at:
            self._next()
        else:
            self.over.set_result(None)
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """A connection that the server closes is an error: these clients keep theirs."""
        if not self.over.done():
            self._seen.statuses["lost"] = self._seen.statuses.get("lost", 0) + 1
            self.over.set_result(None)

    def _next(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._requests))


def requests(texts: Sequence[str], rng: random.Random) -> Iterator[bytes]:
    """Bodies without an end: half of them a text of the file as it is, half with a number that makes it a new one."""
    plain = [_request(text) for text in texts]
    while True:
        text = rng.randrange(len(texts))
        yield plain[text] if rng.random() < 0.5 else _request(f"{texts[text]} {rng.randrange(10**6)}")


def _request(text: str) -> bytes:
    body = json.dumps({"text": text}, ensure_ascii=False).encode()
    head = (
        f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return head.encode() + HEAD_END + body


async def load(port: int, clients: int, seconds: float, texts: Sequence[str], seed: int) -> dict[str, Any]:
    """Ask for so long; what was answered, how fast, and what went wrong."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    seen = Seen(started + seconds)
    source = requests(texts, random.Random(seed))
    made = [loop.create_connection(lambda: Connection(source, seen), "127.0.0.1", port) for _ in range(clients)]
    connections = [connection for _, connection in await asyncio.gather(*made)]
    await asyncio.gather(*(connection.over for connection in connections))
    took = time.perf_counter() - started
    ordered = sorted(seen.latencies)
    return {
        "answers": len(ordered),
        "errors": seen.statuses,
        "per_second": len(ordered) / took,
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1000,
        "own_cpu_share": time.process_time() / took,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line says and print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    texts = given.texts.read_text(encoding="utf-8").splitlines()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(load(given.port, given.clients, given.seconds, texts, given.seed))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
