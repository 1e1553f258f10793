"""The file of tombstones beside the database: it survives the restore of a backup that is older than they are."""

import json
import os
from pathlib import Path

from app.errors import SetupError
from app.services.tombstones import Stone, stone_from_json

NAME = "tombstones.jsonl"


def append(folder: Path, stone: Stone) -> None:
    """Write one more line and flush it to the disk, before anything is forgotten."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(stone.as_json(), ensure_ascii=False).encode() + b"\n"
    descriptor = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Stone]:
    """The stones of a file; none when there is no file.

    Raises:
        SetupError: a line is none. Only a last line that was cut off by a crash is passed over.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    stones = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                stones.append(stone_from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise SetupError(f"line {number} of {path} is no tombstone") from error
    return stones
