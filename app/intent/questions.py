"""A question on its way into the log: the values that the hot path hands over, made before anything is stored."""

import os
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


def new_question_id() -> str:
    """A UUIDv7 (RFC 9562): sorts by the time it was made, so new rows lie together in the index."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (random_bits >> 68) << 64
    value |= 0b10 << 62 | random_bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=value))
