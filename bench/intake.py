"""Bulk intake: `POST /questions` with 1,000 items a time, on SQLite and on PostgreSQL.

Anchor: what any program would write that has nothing else to do: `json.loads` of the rows as they are stored, every
column of them, and one `executemany` of the driver per 1,000, committed, from this process into a database of its own
with the same tables and indexes. Ours is the service as shipped, a process of its own, asked over HTTP by one client
that sends prepared bytes: it parses and checks each item, normalises, masks and hashes its text, hashes body and user,
looks for repeats, writes the rows, answers each item, and folds the questions into texts beside it. So the ratio is the
whole price of the service over the bare writing of the same rows.

Data: questions made up here, with every field that a log from elsewhere has; one in twenty names a telephone number,
which masking replaces. Seven rounds of both sides in turn; before the anchor's turn the service has folded everything,
so that nothing of ours runs beside it. Figures are medians; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from app.db.schema import migrate
from app.db.session import UnitOfWork, connect
from app.db.tables import UserQuestion
from app.intent.questions import new_question_id
from app.services import domains
from bench.result import Bar, CannotRun, Result

ROUNDS = 7
SLICE = 1_000
LEAST_RATIO = {"sqlite": 0.25, "postgresql": 0.4}
PATH = "/api/v1/model-tuning/questions"
_START_SECONDS = 60.0
_LABELS = [f"大类{number % 10} > 小类{number}" for number in range(100)]
_ASKED = ("我上周买的手机", "订单显示已经签收但是", "你好", "请问这个型号的电视", "昨天申请的退款", "客服说")
_ABOUT = ("一直开不了机怎么办", "什么时候能到账", "可以换一台新的吗", "屏幕上有一条竖线", "物流三天没有更新了")


@dataclass(frozen=True, slots=True)
class Round:
    """Rows a second of both sides; `folded`: ours, until the last row had its text."""

    ours: float
    folded: float
    anchor: float


def run(*, quick: bool) -> Result:
    """Measure both databases."""
    slices = 3 if quick else 10
    figures: dict[str, float] = {"rows_per_request": SLICE, "rows_per_round": SLICE * slices}
    bars: dict[str, Bar] = {}
    for backend, bar in LEAST_RATIO.items():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ours, anchor = stack.enter_context(_databases(backend, folder))
            rounds = _rounds(ours, anchor, folder, slices)
        ratios = sorted(each.ours / each.anchor for each in rounds)
        medians = [statistics.median(getattr(each, name) for each in rounds) for name in ("ours", "folded", "anchor")]
        print(
            f"{backend}: {medians[0]:,.0f} rows/s over HTTP ({medians[1]:,.0f} until all are folded), "
            f"{medians[2]:,.0f} by the driver; ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})"
        )
        figures |= {
            f"{backend}_rows_per_second": round(medians[0]),
            f"{backend}_rows_per_second_folded": round(medians[1]),
            f"{backend}_anchor_rows_per_second": round(medians[2]),
            f"{backend}_least_ratio": round(ratios[0], 3),
            f"{backend}_most_ratio": round(ratios[-1], 3),
        }
        bars[f"{backend}_ratio"] = Bar(round(statistics.median(ratios), 3), at_least=bar)
    return Result(figures=figures, bars=bars)


def _rounds(ours: str, anchor: str, folder: Path, slices: int) -> list[Round]:
    rng = random.Random(1)
    written, bare = connect(ours), connect(anchor)
    with ExitStack() as stack, _served(ours, folder) as (host, port):
        for engine in (written, bare):
            stack.callback(engine.dispose)
        _send(host, port, _bodies(rng, 2))
        _wait_until_folded(written)
        pattern = _stored(written)
        found = []
        for _ in range(ROUNDS):
            bodies = _bodies(rng, slices)
            started = time.perf_counter()
            _send(host, port, bodies)
            answered = time.perf_counter() - started
            _wait_until_folded(written)
            folded = time.perf_counter() - started
            rows = [_renamed(pattern) for _ in range(slices)]
            took = _write(bare, rows)
            found.append(Round(*(SLICE * slices / seconds for seconds in (answered, folded, took))))
        count = _one(written, "SELECT count(*) FROM intent_user_questions")
        assert count == SLICE * (2 + slices * ROUNDS), f"{count} rows were written"
    return found


# Ours


@contextmanager
def _served(url: str, folder: Path) -> Iterator[tuple[str, int]]:
    """The service as a process of its own, ready to answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    environment = os.environ | {"INTENTLOOP_DATABASE_URL": url, "INTENTLOOP_DATA_DIR": str(folder / "data")}
    environment["INTENTLOOP_ACCESS_LOG"] = "debug"
    log = (folder / "service.log").open("w", encoding="utf-8")
    command = [sys.executable, "-m", "app", "serve", "--host", host, "--port", str(port)]
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            _wait_until_it_answers(process, host, port)
            yield host, port
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_it_answers(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        client = http.client.HTTPConnection(host, port, timeout=5)
        try:
            client.request("GET", "/healthz")
            if client.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            client.close()
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotRun("the service did not start")
        time.sleep(0.05)


def _send(host: str, port: int, bodies: list[bytes]) -> None:
    client = http.client.HTTPConnection(host, port, timeout=120)
    for body in bodies:
        client.request("POST", PATH, body, {"Content-Type": "application/json"})
        answer = client.getresponse()
        said = answer.read()
        assert answer.status == 200, said[:200]
        assert said.count(b'"created"') == SLICE, said[:200]
    client.close()


def _bodies(rng: random.Random, count: int) -> list[bytes]:
    return [
        json.dumps({"questions": [_question(rng) for _ in range(SLICE)]}, ensure_ascii=False).encode()
        for _ in range(count)
    ]


def _question(rng: random.Random) -> dict[str, Any]:
    words = f"{rng.choice(_ASKED)}{rng.choice(_ABOUT)},单号{rng.randrange(10**7):07d}"
    if rng.random() < 0.05:
        words += f",请打我的电话138{rng.randrange(10**8):08d}"
    asked_at = datetime.now(UTC) - timedelta(seconds=rng.randrange(30 * 86_400))
    return {
        "question": words,
        "intents": [rng.choice(_LABELS)],
        "confidence": round(rng.random(), 6),
        "method": "local_model",
        "request_id": f"shop-{rng.randrange(10**15):015d}",
        "user_id": f"user-{rng.randrange(10**6)}",
        "model_version": "their-model-7",
        "asked_at": asked_at.isoformat().replace("+00:00", "Z"),
    }


def _wait_until_folded(engine: Engine) -> None:
    while _one(engine, "SELECT count(*) FROM intent_user_questions WHERE text_id IS NULL"):
        time.sleep(0.02)


def _one(engine: Engine, statement: str) -> Any:
    with engine.connect().execution_options(intentloop_read_only=True) as connection:
        return connection.execute(text(statement)).scalar()


# The anchor

_TABLE: Any = UserQuestion.__table__
_COLUMNS = [column.name for column in _TABLE.columns]


def _stored(engine: Engine) -> list[list[Any]]:
    """A thousand rows as the driver gives them, before they had a text."""
    connection = engine.raw_connection()
    cursor = connection.cursor()
    # Lists as text, as they are written.
    names = ", ".join(f"CAST({name} AS TEXT)" if _is_json(name) else name for name in _COLUMNS)
    cursor.execute(f"SELECT {names} FROM intent_user_questions LIMIT {SLICE}")
    rows = [list(row) for row in cursor.fetchall()]
    connection.close()
    for row in rows:
        row[_COLUMNS.index("text_id")] = None
    return rows


def _is_json(name: str) -> bool:
    return str(_TABLE.columns[name].type) == "JSON"


def _renamed(rows: list[list[Any]]) -> bytes:
    """The rows under new ids, as the JSON that the anchor reads."""
    question_id, request_id = _COLUMNS.index("question_id"), _COLUMNS.index("request_id")
    renamed = []
    for row in rows:
        fresh = list(row)
        fresh[question_id] = new_question_id()
        fresh[request_id] = f"shop-{random.randrange(10**15):015d}"
        renamed.append(fresh)
    return json.dumps(renamed, ensure_ascii=False, default=str).encode()


def _write(engine: Engine, bodies: list[bytes]) -> float:
    """Seconds that the driver takes for these."""
    connection = engine.raw_connection()
    driver: Any = connection.driver_connection
    place = "?" if engine.dialect.name == "sqlite" else "%s"
    statement = (
        f"INSERT INTO intent_user_questions ({', '.join(_COLUMNS)}) VALUES ({', '.join([place] * len(_COLUMNS))})"
    )
    cursor = driver.cursor()
    started = time.perf_counter()
    for body in bodies:
        if engine.dialect.name == "sqlite":
            cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(statement, json.loads(body))
        if engine.dialect.name == "sqlite":
            cursor.execute("COMMIT")
        else:
            driver.commit()
    took = time.perf_counter() - started
    connection.close()
    return took


# Databases


@contextmanager
def _databases(backend: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The URLs of two migrated databases: the service's and the anchor's."""
    if backend == "sqlite":
        urls = [f"sqlite:///{folder / name}.db" for name in ("ours", "anchor")]
        _prepare(urls)
        yield urls[0], urls[1]
        return
    with _postgresql() as server:
        names = ["ours", "anchor"]
        engine = connect(server).execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in names:
                connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        urls = [server.removesuffix("/postgres") + f"/{name}" for name in names]
        _prepare(urls)
        yield urls[0], urls[1]


@contextmanager
def _postgresql() -> Iterator[str]:
    # The server of the tests. It does not wait for the disk: a wait for both sides would only make them alike.
    import pytest

    from tests import servers

    try:
        with servers.postgresql() as server:
            yield server
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        raise CannotRun(str(error)) from error


def _prepare(urls: list[str]) -> None:
    for url in urls:
        engine = connect(url)
        migrate(engine)
        UnitOfWork(engine)(domains.ensure_default)
        engine.dispose()
