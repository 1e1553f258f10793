"""Fifty labelers at once, 200 labels each: nobody is given what another holds, and no label is lost.

Over HTTP against a service of its own process on each kind of database that is here, with the rows that services would
have left (`bench/worlds`): each labeler takes ten texts, answers them one after the other with the lease's token, and
takes the next ten. What each was given and told is compared with the database afterwards.

Bars: 0 texts given to two labelers, 0 labels that were answered with 200 and are not there, 0 that nobody sent, 0
answers other than 200 (or 503, of a database that is busy: the labeler asks again, and how often is told).

Anchor, for the speed: a plain queue of the same length on the same database in the same run, without HTTP, over as many
connections as the service keeps: one table, `SELECT … FOR UPDATE SKIP LOCKED` (SQLite: `BEGIN IMMEDIATE`), ten at a
time, one transaction for each answer that sets a state and inserts a row. It keeps no texts, twins, tokens, counters or
audit, and checks nothing; it is fair as what the database alone allows, and the ratio has no bar. The servers are those
of the tests: PostgreSQL without fsync, MariaDB and SQLite as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
from sqlalchemy import Column, Engine, Float, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, connect
from bench import worlds
from bench.choice import chosen
from bench.load import handed_out
from bench.load.installation import free_port, running
from bench.result import Bar, CannotRun, Result
from tests import servers

LABELERS, LABELS = 50, 200
QUICK_LABELERS, QUICK_LABELS = 10, 40
AT_ONCE = 10
# As many as the service keeps.
MOST_CONNECTIONS = 20
# Of the questions of a world about so many are waiting texts that nobody holds.
WAITING_SHARE = 0.29

PLAIN = MetaData()
TEXTS = Table(
    "plain_texts",
    PLAIN,
    Column("id", Integer, primary_key=True),
    Column("state", Integer, nullable=False),
    Column("priority", Float, nullable=False),
    Column("holder", String(64)),
)
ANSWERS = Table(
    "plain_answers",
    PLAIN,
    Column("id", Integer, primary_key=True),
    Column("text_id", Integer, nullable=False),
    Column("labeler", String(64), nullable=False),
    Column("label", String(64), nullable=False),
)


def run(*, quick: bool) -> Result:
    """Measure on every kind of database that is here."""
    labelers, labels = (QUICK_LABELERS, QUICK_LABELS) if quick else (LABELERS, LABELS)
    figures: dict[str, float] = {"labelers": labelers, "labels_of_each": labels}
    bars: dict[str, Bar] = {}
    (databases,) = chosen(("sqlite", "postgresql", "mariadb"))
    for backend in databases:
        try:
            bars |= _measure(backend, labelers, labels, figures)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(f"{backend}: left out, {error}")
    if not bars:
        raise CannotRun("no database is here")
    return Result(figures, bars)


def _measure(backend: str, labelers: int, labels: int, figures: dict[str, float]) -> dict[str, Bar]:
    total = labelers * labels
    with tempfile.TemporaryDirectory() as made, _database(backend, Path(made)) as url:
        engine = connect(url)
        world = worlds.build(engine, int(total / WAITING_SHARE) + 2_000)
        if world.waiting < total + worlds.HELD:
            raise CannotRun(f"only {world.waiting} texts wait")
        plain = _plain(engine, labelers, labels)
        seconds, events = _labelled(url, Path(made), labelers, labels)
        found = handed_out.check(engine, events)
        engine.dispose()
    given = Counter(question for question, _ in {
        (event["question"], event["labeler"]) for event in events if event["what"] == "taken"
    })  # fmt: skip
    twice = sum(count > 1 for count in given.values())
    rates = {"labels_per_second": total / seconds, "plain_labels_per_second": total / plain}
    print(f"{backend}: {found.answers:,} labels of {labelers} labelers in {seconds:.1f} s, {total / seconds:.0f} a "
          f"second; a plain table {total / plain:.0f} a second, {seconds / plain:.1f} × ours")  # fmt: skip
    figures |= {f"{backend}_{name}": round(value, 1) for name, value in rates.items()}
    figures[f"{backend}_busy"] = found.busy
    figures[f"{backend}_ratio_to_plain"] = round(plain / seconds, 3)
    return {
        f"{backend}_double_assignments": Bar(float(max(twice, found.doubled)), at_most=0),
        f"{backend}_labels": Bar(float(found.answers), at_least=total),
        f"{backend}_lost_labels": Bar(float(found.lost), at_most=0),
        f"{backend}_stray_labels": Bar(float(found.stray), at_most=0),
        f"{backend}_other_answers": Bar(float(found.unforeseen + found.refused), at_most=0),
    }


def _labelled(url: str, folder: Path, labelers: int, labels: int) -> tuple[float, Sequence[handed_out.Event]]:
    port, ledger = free_port(), folder / "ledger.jsonl"
    settings = {"DATABASE_URL": url, "DATA_DIR": str(folder), "PORT": str(port), "SECRET_KEY": "s" * 40}
    given = {f"INTENTLOOP_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "bench.load.labelers", "--port", str(port), "--labelers", str(labelers)]
    command += ["--labels", str(labels), "--ledger", str(ledger)]
    with running(["-m", "app", "serve"], port, folder / "service.log", **given):
        finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise CannotRun(f"the labelers failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])["seconds"], handed_out.read(ledger)


@contextmanager
def _database(backend: str, folder: Path) -> Iterator[str]:
    if backend == "sqlite":
        yield f"sqlite:///{folder / 'intentloop.db'}"
        return
    with getattr(servers, backend)() as url:
        yield url


# The anchor


def _plain(engine: Engine, labelers: int, labels: int) -> float:
    """Seconds that a plain queue takes for as many labels."""
    PLAIN.create_all(engine)
    work = UnitOfWork(engine)
    rows = [{"id": number, "state": 0, "priority": 1.0 / number} for number in range(1, 2 * labelers * labels)]
    work(lambda session: session.execute(insert(TEXTS), rows))

    # A file has one writer: those who wait for it in the file wait in vain, where there are fifty.
    turn: AbstractContextManager[object] = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    def label(number: int) -> None:
        name, done = f"person-{number}", 0
        while done < labels:
            with turn:
                taken = work(_take, name, min(AT_ONCE, labels - done))
            for text_id in taken:
                with turn:
                    work(_answer, text_id, name)
                done += 1

    started = time.perf_counter()
    with ThreadPoolExecutor(min(labelers, MOST_CONNECTIONS)) as pool:
        list(pool.map(label, range(labelers)))
    took = time.perf_counter() - started
    PLAIN.drop_all(engine)
    return took


def _take(session: Session, name: str, count: int) -> Sequence[int]:
    free = select(TEXTS.c.id).where(TEXTS.c.state == 0, TEXTS.c.holder.is_(None)).order_by(TEXTS.c.id).limit(count)
    ids = session.scalars(free.with_for_update(skip_locked=True)).all()
    session.execute(update(TEXTS).where(TEXTS.c.id.in_(ids)).values(holder=name))
    return ids


def _answer(session: Session, text_id: int, name: str) -> None:
    session.execute(update(TEXTS).where(TEXTS.c.id == text_id, TEXTS.c.holder == name).values(state=1))
    session.execute(insert(ANSWERS), {"text_id": text_id, "labeler": name, "label": "标签"})
