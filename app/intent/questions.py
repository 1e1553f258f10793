"""A question on its way into the log: the values that the hot path hands over, made before anything is stored."""

import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.intent.text import MaskedText


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestion:
    """One question with its answer. `text` is None where the domain keeps no text; `confidence` lies in [0, 1]."""

    domain_id: int
    question_id: str
    request_id: str | None
    body_hash: str
    user_hash: str | None
    text: MaskedText | None
    text_hash: str
    source: str
    train_allowed: bool
    asked_at: datetime
    intents: list[str]
    confidence: float | None
    method: str
    topk: list[list[Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    route_used: list[str] = field(default_factory=list)
    trigger_check: bool = True
    model_version: str | None = None
    latency_ms: float | None = None


_numbering = threading.Lock()
_last = 0


def new_question_id() -> str:
    """A UUIDv7 (RFC 9562): sorts by the time it was made, within this process strictly; new rows lie together."""
    global _last
    with _numbering:
        # 48 bits of milliseconds, then 74 random ones; a second id of one millisecond is the one before, plus a step.
        made = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 74 | int.from_bytes(os.urandom(9), "big")
        _last = max(made, _last + 1 + int.from_bytes(os.urandom(4), "big"))
        value = _last
    high, low = value >> 62, value & (1 << 62) - 1
    stamped = (high >> 12) << 80 | 0x7 << 76 | (high & 0xFFF) << 64 | 0b10 << 62 | low
    return str(uuid.UUID(int=stamped))
