"""A million questions in one domain: the queue, `/stats` and the nightly selection beside the same on ten thousand.

Anchor: the same service on the same kind of database with 10,000 questions, in the same run. It is fair because nothing
differs but the rows; what a request costs beside its statements (HTTP, JSON, the transaction) both pay.

Data: made up here (`bench/worlds`), with the rows that the services would have left: of 1,000,000 questions 400,000
have a text of their own, of which about 311,000 wait in the queue, 36,000 are held out and may be drawn, and 38,000 are
labelled; of 10,000 questions the same shares. In both, the top of the queue is covered by 200 texts that one labeler
skipped, 400 that others hold and 400 whose lease ran out: what a request must pass before it finds its 20.

The servers are those of the tests, and MariaDB has a buffer pool of 4 GB instead of 64 MB: it reads past the system's
cache, in which the other two find their rows.

Each request goes over HTTP to a process of its own. Per round and size: looks without a labeler by both strategies,
leases by a labeler who comes for the first time by both strategies, leases by the labeler who skipped, and `/stats`;
each request on few rows is followed by the same on many. What was leased is given back outside of the time. Seven
rounds; a ratio is that of the 99th percentiles within one round, and the bar is on the median of the rounds.

`select_questions` runs in a process of its own over 20,000 and over 100,000 texts that the present version has not
answered (SQLite), and selects from them: its memory may not grow with them. (A selection looks at 20,000 at most.)
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, connect
from app.db.tables import Lease, Text
from app.services import activations, taxonomy
from app.simulation.service import environment, free_port, stop
from bench import worlds
from bench.choice import chosen
from bench.result import Bar, CannotRun, Result
from tests import servers
from tests.builders import make_version
from tests.serving.artifacts import train

FEW, MANY = 10_000, 1_000_000
ROUNDS = 7
PER_ROUND = 40
MOST_RATIO = 2.0
STREAMED = (20_000, 100_000)
STREAMED_QUICK = (20_000, 40_000)
MOST_GROWTH_MIB = 32.0
START_SECONDS = 60.0
LOOP = "/api/v1/model-tuning"
QUEUE, STATS = "unlabeled", "stats"
_newcomers = itertools.count(1)


def run(*, quick: bool) -> Result:
    """Measure on every kind of database that is here."""
    many = MANY // 10 if quick else MANY
    figures: dict[str, float] = {"questions": many}
    bars: dict[str, Bar] = {}
    measured = 0
    (databases,) = chosen(("sqlite", "postgresql", "mariadb"))
    for backend in databases:
        try:
            ratios = _measure(backend, many, figures)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(f"{backend}: left out, {error}")
            continue
        measured += 1
        for what, of_rounds in ratios.items():
            bars[f"{backend}_{what}_p99_ratio"] = Bar(round(statistics.median(of_rounds), 3), at_most=MOST_RATIO)
            figures[f"{backend}_{what}_p99_ratio_lowest"] = round(min(of_rounds), 3)
            figures[f"{backend}_{what}_p99_ratio_highest"] = round(max(of_rounds), 3)
    if not measured:
        raise CannotRun("no database is here")
    bars["select_memory_growth_mib"] = _streaming(figures, STREAMED_QUICK if quick else STREAMED)
    return Result(figures, bars)


# Requests


@dataclass(frozen=True, slots=True)
class _Side:
    """One database with its service."""

    http: httpx.Client
    work: UnitOfWork

    def ask(self, path: str, parameters: Mapping[str, Any]) -> float:
        """Seconds until the whole answer was here."""
        start = time.perf_counter()
        answer = self.http.get(path, params=dict(parameters))
        took = time.perf_counter() - start
        assert answer.status_code == 200, answer.text
        if "limit" in parameters:
            assert len(answer.json()["items"]) == parameters["limit"]
        if "labeler_id" in parameters:
            self.work(_give_back, parameters["labeler_id"])
        return took


def _give_back(session: Session, labeler_id: str) -> None:
    ids = session.scalars(select(Lease.text_id).where(Lease.domain_id == 1, Lease.labeler_id == labeler_id)).all()
    session.execute(update(Text).where(Text.id.in_(ids)).values(leased_until=None))
    session.execute(delete(Lease).where(Lease.text_id.in_(ids)))


def _kinds() -> dict[str, tuple[str, Callable[[], dict[str, Any]]]]:
    path, twenty = f"{LOOP}/questions/unlabeled", {"limit": 20}

    def newcomer() -> dict[str, Any]:
        return twenty | {"labeler_id": f"newcomer-{next(_newcomers)}"}

    return {
        "look": (path, lambda: twenty),
        "look at random": (path, lambda: twenty | {"strategy": "random"}),
        "lease": (path, newcomer),
        "lease at random": (path, lambda: newcomer() | {"strategy": "random"}),
        "lease, who skipped": (path, lambda: twenty | {"labeler_id": worlds.SKIPPER}),
        STATS: (f"{LOOP}/stats", dict),
    }


def _measure(backend: str, many: int, figures: dict[str, float]) -> dict[str, list[float]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = stack.enter_context(_databases(backend, folder))
        sides = [stack.enter_context(_side(url, folder / name, figures, size, backend))
                 for (name, url), size in zip(urls.items(), (FEW, many), strict=True)]  # fmt: skip
        _round(sides)
        rounds = [_round(sides) for _ in range(ROUNDS)]
    print(f"{backend}: milliseconds on {FEW:,} and on {many:,} questions, median and 99th percentile")
    for kind in _kinds():
        times = [np.concatenate([taken[kind][side] for taken in rounds]) * 1000 for side in (0, 1)]
        shown = [f"{np.median(side):7.2f} {np.percentile(side, 99):7.2f}" for side in times]
        print(f"  {kind:<20} {shown[0]}   {shown[1]}")
    queue_kinds = [kind for kind in _kinds() if kind != STATS]
    ratios = {
        QUEUE: [_ratio([taken[kind] for kind in queue_kinds]) for taken in rounds],
        STATS: [_ratio([taken[STATS]]) for taken in rounds],
    }
    for what, of_rounds in ratios.items():
        print(f"  99th percentiles of {what}, ratio by round: {', '.join(f'{ratio:.2f}' for ratio in of_rounds)}")
    return ratios


def _round(sides: Sequence[_Side]) -> dict[str, list[list[float]]]:
    taken: dict[str, list[list[float]]] = {}
    for kind, (path, parameters) in _kinds().items():
        taken[kind] = [[], []]
        # `/stats` alone has as many as the others together, for a percentile of its own.
        for _ in range(PER_ROUND * (5 if kind == STATS else 1)):
            for side, times in zip(sides, taken[kind], strict=True):
                times.append(side.ask(path, parameters()))
    return taken


def _ratio(kinds: Sequence[Sequence[Sequence[float]]]) -> float:
    few, many = (np.concatenate([kind[side] for kind in kinds]) for side in (0, 1))
    return float(np.percentile(many, 99) / np.percentile(few, 99))


# Databases and services


@contextmanager
def _databases(backend: str, folder: Path) -> Iterator[dict[str, str]]:
    """Two empty databases on one server."""
    if backend == "sqlite":
        for name in ("few", "many"):
            (folder / name).mkdir()
        yield {name: f"sqlite:///{folder / name / 'intentloop.db'}" for name in ("few", "many")}
        return
    with getattr(servers, backend)() as url:
        engine = connect(url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for name in ("few", "many"):
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield {name: engine.url.set(database=name).render_as_string(hide_password=False) for name in ("few", "many")}
        engine.dispose()


@contextmanager
def _side(url: str, folder: Path, figures: dict[str, float], questions: int, backend: str) -> Iterator[_Side]:
    folder.mkdir(exist_ok=True)
    engine = connect(url)
    start = time.perf_counter()
    world = worlds.build(engine, questions)
    print(f"{backend}: {world.questions:,} questions, {world.texts:,} texts, {world.waiting:,} waiting, written in "
          f"{time.perf_counter() - start:.0f} s")  # fmt: skip
    if questions != FEW:
        figures["waiting_texts"] = world.waiting
    with _service(url, folder) as http:
        told = http.get(f"{LOOP}/{STATS}").json()
        # The counters say what was written.
        assert (told["questions"], told["texts"], told["queue"]) == (world.questions, world.texts, world.waiting), told
        yield _Side(http, UnitOfWork(engine))
    engine.dispose()


@contextmanager
def _service(url: str, folder: Path) -> Iterator[httpx.Client]:
    port = free_port()
    log = (folder / "service.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve"],
        env=environment(folder, {"DATABASE_URL": url}, port),
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as http:
            _wait(http, process, folder / "service.log")
            yield http
    finally:
        stop(process)
        log.close()


def _wait(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if http.get("/readyz").is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise CannotRun(f"the service did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


# Selection


def _streaming(figures: dict[str, float], sizes: Sequence[int]) -> Bar:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        artifact = train(folder / "trained", (1, 2, 3))
        artifact.installed_in(folder / "artifacts")
        small = _unscored(folder / "small.db", 1_000, artifact.digest)
        grown = []
        for size in sizes:
            target = _unscored(folder / f"{size}.db", size, artifact.digest)
            command = [sys.executable, "-m", "bench.worlds.streaming", small, target, str(folder / "artifacts")]
            finished = subprocess.run(command, check=True, capture_output=True, text=True)
            told = json.loads(finished.stdout.splitlines()[-1])
            print(f"select_questions: {told['scored']:,} texts in {told['seconds']:.1f} s, {told['grown_mib']:.1f} MiB "
                  f"beyond the {told['base_mib']:.0f} it started with")  # fmt: skip
            assert told["scored"] >= size, told
            figures[f"select_{size}_texts_per_second"] = round(told["scored"] / told["seconds"], 1)
            figures[f"select_{size}_grown_mib"] = round(told["grown_mib"], 1)
            grown.append(told["grown_mib"])
            # For the next size it is warm.
            small = _unscored(folder / f"small-{size}.db", 1_000, artifact.digest)
    return Bar(round(grown[1] - grown[0], 1), at_most=MOST_GROWTH_MIB)


def _unscored(path: Path, waiting: int, digest: str) -> str:
    """A database with so many waiting texts, which another version has answered than the one that serves."""
    url = f"sqlite:///{path}"
    engine = connect(url)
    # Of all texts some are held out, labelled or retired, and do not wait.
    worlds.build(engine, int(waiting / 0.75), distinct=1.0)

    def serve(session: Session) -> None:
        assert [label.id for label in taxonomy.active(session, 1)][:3] == [1, 2, 3]
        make_version(session)
        version = make_version(session, artifact_digest=digest)
        assert version.version != worlds.VERSION
        activations.activate(session, version.version, by="bench", reason="bench")

    UnitOfWork(engine)(serve)
    engine.dispose()
    return url
