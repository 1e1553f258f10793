"""What figures cost: counting beside folding, watching beside `/classify/batch`, and `/stats` on many questions.

Anchors: the same code without the part that is measured. Folding without its counters, and a service without the layer
that counts and names requests, are what the release before did; `/stats` on few questions is what it should cost on
many. Each is fair because nothing else differs, and both sides run in turn in one process, on SQLite in a temporary
folder.

Measured is the processor's time of this process, and for requests that of the event loop's thread, on which the layer
runs and which bounds how many requests a process takes: what else runs on the machine does not move it much.

Data: questions made up here; what they say does not matter. Nine rounds of folding and of requests, in each round
ours, the anchor twice, ours; figures are medians of the ratios of a round.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.api.observing import Observed
from app.db.schema import migrate
from app.db.session import UnitOfWork, connect
from app.intent.questions import AskedQuestion, new_question_id
from app.intent.taxonomy import parse_taxonomy
from app.intent.text import MaskedText, text_hash
from app.main import create_app
from app.services import counters, counting, domains, folding, intake, taxonomy
from app.services import statistics as figures
from app.services.batches import OpeningRule
from app.settings import Settings
from bench.result import Bar, Result

ROUNDS = 9
SLICE = 1_000
CLIENTS = 16
MOST_FOLD_RATIO = 1.25
LEAST_THROUGHPUT_RATIO = 0.95
MOST_STATS_RATIO = 1.25
_LABELS = 100
# Of the process and not of the wall: what others do on the machine is no cost of ours.
_clock = time.process_time


def run(*, quick: bool) -> Result:
    """Measure the three."""
    many, requests = (10_000, 1_000) if quick else (100_000, 3_000)
    with tempfile.TemporaryDirectory() as folder:
        fold_ratio, fold_ms = _folding(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        throughput_ratio, per_second = asyncio.run(_requests(Path(folder), requests))
    with tempfile.TemporaryDirectory() as folder:
        few_ms, many_ms = _stats(Path(folder), many)
    print(f"folding {SLICE} questions: {fold_ms:.0f} ms, {fold_ratio:.3f} × without counting")
    print(
        f"/classify/batch without a model: {per_second:.0f} a second of the loop, "
        f"{throughput_ratio:.3f} × without watching"
    )
    print(f"/stats: {few_ms:.2f} ms on 1,000 questions, {many_ms:.2f} ms on {many:,}")
    return Result(
        figures={
            "fold_ms": round(fold_ms, 1),
            "requests_per_loop_second": round(per_second, 1),
            "stats_ms_few": round(few_ms, 3),
            "stats_ms_many": round(many_ms, 3),
            "questions": many,
        },
        bars={
            "fold_ratio": Bar(round(fold_ratio, 3), at_most=MOST_FOLD_RATIO),
            "throughput_ratio": Bar(round(throughput_ratio, 3), at_least=LEAST_THROUGHPUT_RATIO),
            "stats_ratio": Bar(round(many_ms / few_ms, 3), at_most=MOST_STATS_RATIO),
        },
    )


# Folding


def _folding(folder: Path) -> tuple[float, float]:
    work, rng = _database(folder), random.Random(1)
    ratios, times = [], []
    _fold(work, rng)
    for _ in range(ROUNDS):
        counted = _fold(work, rng)
        with _without_counting():
            without = _fold(work, rng) + _fold(work, rng)
        counted += _fold(work, rng)
        times.append(counted / 2)
        ratios.append(counted / without)
    return statistics.median(ratios), statistics.median(times) * 1000


def _fold(work: UnitOfWork, rng: random.Random) -> float:
    work(intake.record, [_asked(rng) for _ in range(SLICE)])
    start = _clock()
    folded = work(folding.fold)
    took = _clock() - start
    assert folded == SLICE
    return took


@contextmanager
def _without_counting() -> Iterator[None]:
    listeners: list[tuple[str, Callable[..., None]]] = [
        ("before_flush", counting._follow_rows),
        ("before_commit", counters._write),
    ]
    asked = counting.asked
    counting.asked = lambda *_: None
    for name, listener in listeners:
        event.remove(Session, name, listener)
    try:
        yield
    finally:
        counting.asked = asked
        for name, listener in listeners:
            event.listen(Session, name, listener)


# Requests


async def _requests(folder: Path, count: int) -> tuple[float, float]:
    migrated = _database(folder / "data")
    migrated.engine.dispose()
    app = create_app(Settings(_env_file=None, data_dir=folder / "data"))
    watched = app.build_middleware_stack()
    app.user_middleware = [layer for layer in app.user_middleware if str(layer.cls) != str(Observed)]
    bare = app.build_middleware_stack()
    async with app.router.lifespan_context(app):
        for stack in (bare, watched):
            await _ask(app, stack, count // 4)
        ratios, rates = [], []
        for _ in range(ROUNDS):
            seen = await _ask(app, watched, count)
            without = await _ask(app, bare, count) + await _ask(app, bare, count)
            seen += await _ask(app, watched, count)
            rates.append(seen / 2)
            ratios.append(seen / without)
    return statistics.median(ratios), statistics.median(rates)


async def _ask(app: FastAPI, stack: Any, count: int) -> float:
    """Requests a second of the loop, by clients at once, through these layers and with no network between."""
    left = iter(range(count))

    async def client() -> None:
        for number in left:
            assert await _one(app, stack, number) == 200

    start = time.thread_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return count / (time.thread_time() - start)


async def _one(app: FastAPI, stack: Any, number: int) -> int:
    body = json.dumps({"texts": [f"第{number}个问题怎么办"]}).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/classify/batch",
        "raw_path": b"/classify/batch",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8001"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8001),
        "app": app,
    }
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    answer: Awaitable[None] = stack(scope, receive, send)
    await answer
    return status


# Statistics


def _stats(folder: Path, many: int) -> tuple[float, float]:
    work, rng = _database(folder), random.Random(2)
    _fill(work, rng, 1_000)
    few = _look(work)
    _fill(work, rng, many - 1_000)
    return few, _look(work)


def _fill(work: UnitOfWork, rng: random.Random, count: int) -> None:
    for _ in range(count // SLICE):
        work(intake.record, [_asked(rng) for _ in range(SLICE)])
        work(folding.fold)


def _look(work: UnitOfWork) -> float:
    """Milliseconds of one look, the fastest of many: the others met something else on the machine."""

    def look(session: Session) -> None:
        figures.of_domain(session, domains.find(session, domains.DEFAULT), OpeningRule())

    times = []
    for _ in range(60):
        start = _clock()
        work.read(look)
        times.append(_clock() - start)
    return min(times) * 1000


def _database(folder: Path) -> UnitOfWork:
    folder.mkdir(parents=True, exist_ok=True)
    engine = connect(f"sqlite:///{folder / 'intentloop.db'}")
    migrate(engine)
    work = UnitOfWork(engine)
    work(domains.ensure_default)

    def label(session: Session) -> None:
        domain = domains.locked(session, domains.DEFAULT)
        taxonomy.replace(session, domain, parse_taxonomy([f"标签{number}" for number in range(_LABELS)]))

    work(label)
    return work


def _asked(rng: random.Random) -> AskedQuestion:
    text = MaskedText(f"问题 {rng.randrange(1_000_000_000) if rng.random() < 0.7 else rng.randrange(200)}")
    label, other = (f"标签{number}" for number in rng.sample(range(_LABELS), 2))
    return AskedQuestion(
        domain_id=1,
        question_id=new_question_id(),
        request_id=None,
        body_hash="0" * 64,
        user_hash=None,
        text=text,
        text_hash=text_hash(text),
        source="served",
        train_allowed=True,
        asked_at=datetime.now(UTC) - timedelta(days=rng.randrange(30)),
        intents=[label],
        confidence=0.6,
        method="local_model",
        topk=[[label, 0.6], [other, 0.3]],
        route_used=["discriminative"],
        trigger_check=rng.random() < 0.3,
        model_version="default-v1",
        latency_ms=rng.lognormvariate(1.0, 1.0),
    )
