"""One question as a frame of a file: a mark, the length and CRC-32 of its payload, and the payload, which is JSON."""

import json
import struct
import zlib
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from app.intent.questions import AskedQuestion
from app.intent.text import MaskedText

MARK = b"ILs1"
HEADER = struct.Struct("<4sII")
# A later release may know fewer.
_FIELDS = {field.name for field in fields(AskedQuestion)}


def encoded(question: AskedQuestion) -> bytes:
    """One question as the payload of a frame."""
    values = asdict(question)
    values["asked_at"] = question.asked_at.isoformat()
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def decoded(payload: bytes) -> AskedQuestion:
    """What `encoded` gave."""
    values: dict[str, Any] = {name: value for name, value in json.loads(payload).items() if name in _FIELDS}
    values["asked_at"] = datetime.fromisoformat(values["asked_at"])
    values["text"] = None if values["text"] is None else MaskedText(values["text"])
    return AskedQuestion(**values)


@dataclass(frozen=True, slots=True)
class Scanned:
    """The frames of one segment: offsets of their payloads, with lengths; and where whole ones end.

    `damaged`: places within, before further whole frames, that hold none: no crash leaves that, only a bad disk.
    """

    frames: list[tuple[int, int]]
    whole: int
    damaged: int


def framed(payload: bytes) -> bytes:
    """A payload with its header."""
    return HEADER.pack(MARK, len(payload), zlib.crc32(payload)) + payload


def scan(data: bytes) -> Scanned:
    """Find the whole frames of a segment."""
    frames: list[tuple[int, int]] = []
    at = whole = damaged = 0
    while at < len(data):
        if (length := _frame_at(data, at)) is not None:
            frames.append((at + HEADER.size, length))
            at = whole = at + HEADER.size + length
            continue
        found = data.find(MARK, at + 1)
        while found != -1 and _frame_at(data, found) is None:
            found = data.find(MARK, found + 1)
        if found == -1:
            break
        damaged += 1
        at = found
    return Scanned(frames, whole, damaged)


def _frame_at(data: bytes, at: int) -> int | None:
    """The length of the payload of the whole frame that begins here, if one does."""
    if at + HEADER.size > len(data):
        return None
    mark, length, checksum = HEADER.unpack_from(data, at)
    payload = memoryview(data)[at + HEADER.size : at + HEADER.size + length]
    return length if mark == MARK and len(payload) == length and zlib.crc32(payload) == checksum else None
