"""Labelers at once over HTTP, a process of its own: each takes texts from the queue and answers what it was given.

`python -m bench.load.labelers --port P --labelers N --labels M --ledger FILE`; every line of FILE is what one of them
was given, sent or told, with the time. With `--mischief` they also abandon texts, answer after their lease has ended,
send an answer twice at once, hang up before they hear, and hand back. Sockets and bytes alone: what the generator burns
is taken from the server that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

LOOP = "/api/v1/model-tuning"
AT_ONCE = 10
# So often in a row nothing to do, and a labeler goes home.
EMPTY_HANDED = 2
# What becomes of a text that was given to a labeler, and how often. The rest is answered as it should be.
MISCHIEF = {"abandon": 0.12, "late": 0.1, "twice": 0.1, "cut": 0.1, "release": 0.05}


@dataclass(slots=True)
class Ledger:
    """What happened, in the order in which the labelers saw it."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def note(self, what: str, labeler: str, question: str, **more: Any) -> None:
        """One thing that a labeler was given, has sent or was told."""
        self.events.append({"at": time.time(), "what": what, "labeler": labeler, "question": question, **more})


class Connection:
    """One connection that is kept; a broken one is opened anew."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one answer."""
        await self._send(method, path, body)
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head[9:12]), json.loads(await self._reader.readexactly(length))

    async def send_and_hang_up(self, method: str, path: str, body: Any) -> None:
        """Send it whole, and hear nothing of it."""
        await self._send(method, path, body)
        await asyncio.sleep(random.uniform(0.0, 0.02))
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _send(self, method: str, path: str, body: Any) -> None:
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await self._writer.drain()


@dataclass(slots=True)
class Labeler:
    """One person: takes a few texts, answers them, and takes the next."""

    name: str
    port: int
    labels: Sequence[str]
    wanted: int
    ledger: Ledger
    lease_seconds: int
    mischief: bool
    rng: random.Random
    given: int = 0

    async def work(self) -> None:
        """Until so many answers were taken, or the queue has nothing more for this labeler."""
        http, empty_handed = Connection(self.port), 0
        while self.given < self.wanted and empty_handed < EMPTY_HANDED:
            items = await self._take(http)
            if items is None:
                # The database is busy: the service says when to come again, after a second at the least.
                await asyncio.sleep(self.rng.uniform(0.5, 1.5))
                continue
            if not items:
                empty_handed += 1
                # What others abandoned comes back when their leases end.
                await asyncio.sleep(self.lease_seconds + 1.0 if self.mischief else 0.05)
                continue
            empty_handed = 0
            for item in items:
                await self._answer(http, item["question_id"], item["lease_token"])
        http.close()

    async def _take(self, http: Connection) -> list[dict[str, Any]] | None:
        """What they hold and what is added to it; None of a service that cannot say."""
        limit = min(AT_ONCE, self.wanted - self.given)
        path = f"{LOOP}/questions/unlabeled?labeler_id={self.name}&limit={limit}&lease_seconds={self.lease_seconds}"
        status, answer = await http.ask("GET", path)
        self.ledger.note("asked", self.name, "", status=status)
        if status != 200:
            return None
        for item in answer["items"]:
            self.ledger.note("taken", self.name, item["question_id"], token=item["lease_token"])
        found: list[dict[str, Any]] = answer["items"]
        return found

    async def _answer(self, http: Connection, question: str, token: str) -> None:
        how = self._how()
        if how == "abandon":
            return
        if how == "release":
            body = {"labeler_id": self.name, "lease_token": token}
            status, _ = await http.ask("POST", f"{LOOP}/questions/{question}/release", body)
            self.ledger.note("released", self.name, question, status=status, token=token)
            return
        if how == "late":
            await asyncio.sleep(self.lease_seconds + self.rng.uniform(0.1, 2.0))
        if how == "cut":
            lost = Connection(self.port)
            self.ledger.note("cut", self.name, question, token=token)
            await lost.send_and_hang_up("POST", f"{LOOP}/questions/{question}/label", self._body(question, token))
        if how == "twice":
            other = Connection(self.port)
            await asyncio.gather(self._submit(http, question, token), self._submit(other, question, token))
            other.close()
        else:
            await self._submit(http, question, token)

    def _how(self) -> str:
        point = self.rng.random() if self.mischief else 1.0
        for how, share in MISCHIEF.items():
            if point < share:
                return how
            point -= share
        return "answer"

    def _body(self, question: str, token: str) -> dict[str, Any]:
        # Most people say the same about a question; some have a mind of their own.
        key = question if self.rng.random() < 0.8 else f"{question}{self.name}"
        label = self.labels[int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % len(self.labels)]
        return {"correct_intent": [label], "labeler_id": self.name, "lease_token": token}

    async def _submit(self, http: Connection, question: str, token: str) -> None:
        sent = time.time()
        status, answer = await http.ask("POST", f"{LOOP}/questions/{question}/label", self._body(question, token))
        told = {"annotation": answer["annotation_id"]} if status == 200 else {"code": answer.get("code")}
        self.ledger.note("told", self.name, question, status=status, token=token, sent=sent, **told)
        self.given += status == 200


async def label(options: argparse.Namespace) -> tuple[Ledger, float]:
    """All labelers at once; what happened, and how many seconds it took."""
    ledger, http = Ledger(), Connection(options.port)
    _, taxonomy = await http.ask("GET", f"{LOOP}/taxonomy")
    http.close()
    labels = [row["label"] for row in taxonomy["labels"] if row["status"] == "active"]
    people = [
        Labeler(
            name=f"person-{number}",
            port=options.port,
            labels=labels,
            wanted=options.labels,
            ledger=ledger,
            lease_seconds=options.lease_seconds,
            mischief=options.mischief,
            rng=random.Random(f"{options.seed}/{number}"),
        )
        for number in range(options.labelers)
    ]
    started = time.perf_counter()
    await asyncio.gather(*(person.work() for person in people))
    return ledger, time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line says; the last line is one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--labelers", type=int, required=True)
    parser.add_argument("--labels", type=int, required=True, help="of each labeler")
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--lease-seconds", type=int, default=900)
    parser.add_argument("--mischief", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ledger, seconds = runner.run(label(options))
    lines = (json.dumps(event, ensure_ascii=False) for event in ledger.events)
    options.ledger.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps({"seconds": seconds, "own_cpu_share": time.process_time() / seconds}))


if __name__ == "__main__":
    main(sys.argv[1:])
