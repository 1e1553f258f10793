"""Questions to spool, and a database that obeys a test."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.intent.questions import AskedQuestion, new_question_id
from app.intent.text import MaskedText
from app.serving.log import Database, Replayed


def question(number: int = 0, **changes: Any) -> AskedQuestion:
    """An answered question; its request id and its text tell its number."""
    values: dict[str, Any] = {
        "domain_id": 1,
        "question_id": new_question_id(),
        "request_id": f"r{number}",
        "body_hash": f"{number:064d}",
        "user_hash": None,
        "text": MaskedText(f"怎么退货 😀 {number}"),
        "text_hash": "b" * 64,
        "source": "served",
        "train_allowed": True,
        "asked_at": datetime(2026, 11, 25, 12, tzinfo=UTC),
        "intents": ["退货 > 申请"],
        "confidence": 0.5,
        "method": "local_model",
        "topk": [["退货 > 申请", 0.5]],
        "verdicts": [{"tier": "local_model", "label_id": 1, "confidence": 0.5}],
        "route_used": ["discriminative"],
        "trigger_check": True,
        "model_version": "default-v1",
        "latency_ms": 1.5,
    }
    return AskedQuestion(**(values | changes))


class Away(Exception):
    """The outage of this database."""


class Obedient:
    """A database in memory: each question once; away or hanging as the test says."""

    def __init__(self) -> None:
        self.rows: list[AskedQuestion] = []
        self.writes: list[int] = []
        self.replays: list[list[str]] = []
        self.away = threading.Event()
        self.flows = threading.Event()
        self.flows.set()

    @property
    def parts(self) -> Database[AskedQuestion]:
        return Database(self.write, self.replay, self.ask, lambda error: isinstance(error, Away))

    def write(self, asked: Sequence[AskedQuestion]) -> list[AskedQuestion | Exception]:
        self._reach()
        self.writes.append(len(asked))
        self.rows += asked
        return list(asked)

    def replay(self, spooled: Sequence[AskedQuestion]) -> Replayed:
        self._reach()
        self.replays.append([str(one.request_id) for one in spooled])
        here = {row.question_id for row in self.rows}
        new = [one for one in spooled if one.question_id not in here]
        self.rows += new
        return Replayed(len(new), len(spooled) - len(new))

    def ask(self) -> None:
        self._reach()

    def _reach(self) -> None:
        assert self.flows.wait(30)
        if self.away.is_set():
            raise Away
