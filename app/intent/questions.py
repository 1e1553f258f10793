"""A question on its way into the log: the values that the hot path hands over, made before anything is stored."""

import os
import threading
import time
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
_RANDOM_BYTES = 9 + 4
# Random bytes for many ids are asked for at once: each call of the kernel lets another thread take this one's turn.
_POOLED = 256
_pool = b""


def new_question_id() -> str:
    """A UUIDv7 (RFC 9562): sorts by the time it was made, within this process strictly; new rows lie together."""
    global _last, _pool
    with _numbering:
        if not _pool:
            _pool = os.urandom(_RANDOM_BYTES * _POOLED)
        drawn, _pool = _pool[:_RANDOM_BYTES], _pool[_RANDOM_BYTES:]
        # 48 bits of milliseconds, then 74 random ones; a second id of one millisecond is the one before, plus a step.
        made = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 74 | int.from_bytes(drawn[:9], "big")
        _last = max(made, _last + 1 + int.from_bytes(drawn[9:], "big"))
        value = _last
    high, low = value >> 62, value & (1 << 62) - 1
    digits = f"{(high >> 12) << 80 | 0x7 << 76 | (high & 0xFFF) << 64 | 0b10 << 62 | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _forget_the_pool() -> None:
    # A child that was forked must not give out what its parent gives out, too.
    global _pool
    _pool = b""


os.register_at_fork(after_in_child=_forget_the_pool)
