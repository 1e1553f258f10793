"""A domain with very many questions, written in bulk: the rows that intake, folding and labelling would have left.

Of the texts, 12 % are labelled, 2 % are retired and the others wait; a tenth is held out, and a twentieth of
that was drawn. Each text is asked once, and the rest of the questions fall on few of them: the most popular one of a
million questions is asked about 8,000 times. At the top of the queue lie texts that one labeler skipped, that
others hold, and whose leases ran out.
"""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np
from sqlalchemy import Engine, insert, select, update
from sqlalchemy.orm import Session

from app.db.erasing import empty_write_ahead_log
from app.db.schema import migrate
from app.db.session import UnitOfWork
from app.db.snapshot import number_on
from app.db.tables import Annotation, Base, Lease, Text, UserQuestion
from app.intent.selection import is_gold_candidate
from app.intent.taxonomy import parse_taxonomy
from app.intent.text import MaskedText, text_hash
from app.services import domains, recounting, taxonomy
from app.services.selection import GOLD_REASON
from app.services.texts import fresh_priority

LABELS = tuple(f"标签{number}" for number in range(50))
LABELERS = tuple(f"labeler-{number}" for number in range(20))
SKIPPER = LABELERS[0]
VERSION = "default-v1"
DAYS = 60
SKIPPED, HELD, RAN_OUT = 200, 400, 400
SLICE = 5_000
CACHE_KIB = 400_000
POOL_BYTES = 4 * 2**30

Rows = Iterator[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class World:
    """How many of each there are."""

    questions: int
    texts: int
    waiting: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which question asks which text, and when."""

    text_of: np.ndarray[Any, np.dtype[np.int64]]
    counts: np.ndarray[Any, np.dtype[np.int64]]
    first: np.ndarray[Any, np.dtype[np.int64]]
    last: np.ndarray[Any, np.dtype[np.int64]]
    asked: np.ndarray[Any, np.dtype[np.int64]]
    start: datetime

    def moment(self, milliseconds: Any) -> datetime:
        return self.start + timedelta(milliseconds=int(milliseconds))

    def question_id(self, place: int) -> str:
        """A UUIDv7 of its time, unique by its place."""
        moment = int(self.start.timestamp() * 1000) + int(self.asked[place])
        return f"{moment >> 16:08x}-{moment & 0xFFFF:04x}-7000-8000-{place:012x}"


def build(engine: Engine, questions: int, *, distinct: float = 0.4, seed: int = 1) -> World:
    """Migrate an empty database and fill it with so many questions, `distinct` of them with a text of their own."""
    migrate(engine)
    work = UnitOfWork(engine)
    work(domains.ensure_default)
    label_ids = work(_label)
    texts = int(questions * distinct)
    _give_room(engine)
    return _fill(engine, questions, texts, label_ids, seed)


def _fill(engine: Engine, questions: int, texts: int, label_ids: Sequence[int], seed: int) -> World:
    work = UnitOfWork(engine)
    plan = _plan(questions, texts, seed)
    made = list(_texts(plan, label_ids, random.Random(seed)))
    _write(engine, Text, (row for row, _ in made))
    _write(engine, UserQuestion, _questions(plan, [row for row, _ in made]))
    _write(engine, Annotation, (row for _, row in made if row is not None))
    with engine.begin() as connection:
        number_on(connection, Base.metadata.tables[Text.__tablename__])
        number_on(connection, Base.metadata.tables[Annotation.__tablename__])
    work(_occupy, random.Random(seed))
    # As `intentloop recount` does: the counters say what the rows say.
    work(lambda session: recounting.rebuild(session, domains.locked(session, domains.DEFAULT)))
    _settle(engine)
    waiting = sum(row[_STATE] == "unlabelled" and row[_PRIORITY] is not None for row, _ in made)
    return World(questions, texts, waiting)


def _give_room(engine: Engine) -> None:
    """Let MariaDB keep the rows in memory: it reads past the system's cache, from which the other two live."""
    if engine.dialect.name in ("mysql", "mariadb"):
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET GLOBAL innodb_buffer_pool_size = {POOL_BYTES}")


def _settle(engine: Engine) -> None:
    """What a server does by itself within minutes after so many rows."""
    if engine.dialect.name == "sqlite":
        empty_write_ahead_log(engine)
        return
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        postgresql = engine.dialect.name == "postgresql"
        connection.exec_driver_sql("VACUUM ANALYZE" if postgresql else f"ANALYZE TABLE {tables}")


def _label(session: Session) -> list[int]:
    domain = domains.locked(session, domains.DEFAULT)
    return [label.id for label in taxonomy.replace(session, domain, parse_taxonomy(list(LABELS)))]


def _plan(questions: int, texts: int, seed: int) -> _Plan:
    rng = np.random.default_rng(seed)
    again = (texts * rng.random(questions - texts) ** 3).astype(np.int64)
    text_of = np.concatenate([np.arange(texts), again])
    rng.shuffle(text_of)
    asked = np.sort(rng.integers(0, DAYS * 86_400_000, questions))
    first, last = np.full(texts, np.iinfo(np.int64).max), np.zeros(texts, dtype=np.int64)
    np.minimum.at(first, text_of, asked)
    np.maximum.at(last, text_of, asked)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=DAYS)
    return _Plan(text_of, np.bincount(text_of, minlength=texts), first, last, asked, start)


_TEXT = (
    "id", "domain_id", "text_hash", "group_hash", "text", "question_id", "count", "first_asked_at", "last_asked_at",
    "train_allowed", "is_gold", "state", "priority", "reason", "strategy", "sampling_probability", "leased_until",
    "intents", "confidence", "topk", "scored_by", "rule_hits", "label_id", "annotation_id", "labelled_at",
    "label_source", "proposed_label", "training_status", "claimed_by", "projection_due", "created_at",
)  # fmt: skip
_STATE, _PRIORITY = _TEXT.index("state"), _TEXT.index("priority")
_QUESTION = (
    "question_id", "domain_id", "request_id", "body_hash", "user_hash", "question", "text_hash", "text_id", "source",
    "train_allowed", "asked_at", "intents", "confidence", "method", "topk", "verdicts", "route_used", "trigger_check",
    "model_version", "latency_ms", "is_labeled", "correct_intent", "correct_time_intent", "training_status",
    "labeler_id", "labeled_at", "priority", "priority_reason", "created_at",
)  # fmt: skip
_ANNOTATION = (
    "id", "domain_id", "text_id", "question_id", "labeler_id", "revision", "kind", "label_id", "answer", "time_intent",
    "proposed_label", "answered_by", "agreed", "supersedes_id", "source", "reason", "created_at",
)  # fmt: skip
_COLUMNS: dict[Any, Sequence[str]] = {Text: _TEXT, UserQuestion: _QUESTION, Annotation: _ANNOTATION}


def _texts(plan: _Plan, label_ids: Sequence[int], rng: random.Random) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each text, and the annotation that labelled it."""
    # The question by which a text is shown is the first that asked it.
    shown = np.zeros(len(plan.counts), dtype=np.int64)
    shown[plan.text_of[::-1]] = np.arange(len(plan.text_of))[::-1]
    for number, count in enumerate(plan.counts):
        text = MaskedText(f"第{number}个问题{rng.randrange(10**6)}：订单{number % 977}的快递到哪里了")
        hashed, place = text_hash(text), rng.randrange(len(LABELS))
        best = round(rng.uniform(0.3, 0.99), 6)
        topk = [[LABELS[place], best], [LABELS[place - 1], round((1 - best) * 0.7, 6)]]
        gold, draw = is_gold_candidate(hashed), rng.random()
        drawn = gold and rng.random() < 0.05
        state = "unlabelled" if gold and not drawn else "labelled" if draw < 0.12 else "skipped" if draw < 0.14 else ""
        state, label_id = state or "unlabelled", label_ids[place] if state == "labelled" else None
        priority = fresh_priority(hashed, int(count), topk)
        first, last = plan.moment(plan.first[number]), plan.moment(plan.last[number])
        strategy, reason = (
            ("gold", GOLD_REASON) if drawn else (None, None) if gold else (priority.strategy, priority.reason)
        )
        waits = state == "unlabelled" and (not gold or drawn)
        status = {"labelled": "skipped" if gold else "used", "skipped": "skipped"}.get(state, "pending")
        question_id = plan.question_id(int(shown[number]))
        labelled = label_id is not None
        row = (
            number + 1, 1, hashed, hashed, text, question_id, int(count), first, last,
            True, gold, state, priority.value if waits else None, reason, strategy, 0.1 if drawn else None, None,
            _json([LABELS[place]]), best, _json(topk), VERSION, None, label_id, number + 1 if labelled else None,
            last if labelled else None, "labeler" if labelled else None, None, status, None, False, first,
        )  # fmt: skip
        note = (
            number + 1, 1, number + 1, question_id, rng.choice(LABELERS), 1, "label", label_id,
            _json([LABELS[place]]), None, None, VERSION, True, None, "labeler", None, last,
        )  # fmt: skip
        yield row, note if labelled else None


def _questions(plan: _Plan, texts: Sequence[tuple[Any, ...]]) -> Rows:
    of = {name: place for place, name in enumerate(_TEXT)}
    verdicts, route = _json([]), _json(["discriminative"])
    for place, number in enumerate(plan.text_of):
        text, asked = texts[number], plan.moment(plan.asked[place])
        labelled = text[of["label_id"]] is not None
        body = hashlib.blake2b(place.to_bytes(8, "big"), digest_size=32).hexdigest()
        yield (
            plan.question_id(place), 1, None, body, None, text[of["text"]], text[of["text_hash"]], text[0], "served",
            True, asked, text[of["intents"]], text[of["confidence"]], "local_model", text[of["topk"]], verdicts, route,
            text[of["confidence"]] < 0.6, VERSION, 2.5, labelled, text[of["intents"]] if labelled else None, None,
            "used" if labelled and not text[of["is_gold"]] else text[of["training_status"]],
            LABELERS[number % len(LABELERS)] if labelled else None, text[of["labelled_at"]],
            text[of["priority"]], text[of["reason"]], asked,
        )  # fmt: skip


def _occupy(session: Session, rng: random.Random) -> None:
    """Skips and leases at the top of the queue, where whoever looks for the next texts must pass them."""
    wanted = SKIPPED + HELD + RAN_OUT
    top = session.execute(
        select(Text.id, Text.question_id)
        .where(Text.domain_id == 1, Text.state == "unlabelled", Text.priority >= 0.0)
        .order_by(Text.priority.desc())
        .limit(wanted)
    ).all()
    chosen = rng.sample([tuple(row) for row in top], len(top))
    skipped, leased = chosen[:SKIPPED], chosen[SKIPPED:]
    session.execute(
        insert(Annotation),
        [
            {"domain_id": 1, "text_id": text_id, "question_id": question_id, "labeler_id": SKIPPER, "revision": 1,
             "kind": "skip", "source": "labeler"}
            for text_id, question_id in skipped
        ],
    )  # fmt: skip
    moment = datetime.now(UTC)
    for number, (text_id, _) in enumerate(leased):
        until = moment + (timedelta(days=1) if number < HELD else -timedelta(hours=1))
        session.add(
            Lease(text_id=text_id, slot=1, domain_id=1, labeler_id=LABELERS[1 + number % (len(LABELERS) - 1)],
                  token=str(uuid.UUID(int=rng.getrandbits(128))), expires_at=until)
        )  # fmt: skip
        session.execute(update(Text).where(Text.id == text_id).values(leased_until=until))


# Writing


def _write(engine: Engine, table: Any, rows: Iterable[tuple[Any, ...]]) -> None:
    columns = [engine.dialect.identifier_preparer.quote(name) for name in _COLUMNS[table]]
    target = f"{table.__tablename__} ({', '.join(columns)})"
    rows = iter(rows)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor()
        if engine.dialect.name == "postgresql":
            with cursor.copy(f"COPY {target} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            driver.commit()
            return
        if engine.dialect.name == "sqlite":
            # Hashes go into their indexes anywhere: with two megabytes of cache each row would be a page to write.
            cursor.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        mark = "?" if engine.dialect.name == "sqlite" else "%s"
        statement = f"INSERT INTO {target} VALUES ({', '.join([mark] * len(columns))})"
        while page := [_plain(row, engine.dialect.name) for row in islice(rows, SLICE)]:
            cursor.execute("BEGIN")
            cursor.executemany(statement, page)
            cursor.execute("COMMIT")


def _plain(row: tuple[Any, ...], dialect: str) -> tuple[Any, ...]:
    """Times as both keep them: UTC without a zone."""
    shape = "%Y-%m-%d %H:%M:%S.%f"
    return tuple(
        value
        if not isinstance(value, datetime)
        else value.strftime(shape)
        if dialect == "sqlite"
        else value.replace(tzinfo=None)
        for value in row
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
