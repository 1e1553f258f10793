"""The door's keys as this machine read them last: hashes alone, for a start while the database is away."""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from app.remembered import read_whole, write_whole
from app.services.keys import KeyRecord, KeyTable

logger = logging.getLogger(__name__)

KEYS = "keys.json"


class RememberedKeys:
    """Reads the keys from the database and keeps them; hands out what it kept before the database ever answered."""

    def __init__(self, read: Callable[[], KeyTable], folder: Path) -> None:
        self._read = read
        self._path = folder / KEYS
        self._kept: KeyTable | None = None
        self._told = False

    def __call__(self) -> KeyTable:
        """The keys of now.

        Raises:
            whatever the database raises.
        """
        table = self._read()
        if table != self._kept:
            self._keep(table)
        return table

    def _keep(self, table: KeyTable) -> None:
        try:
            write_whole(self._path, _as_json(table))
        except OSError as error:
            # A full disk must not keep a key alive that was taken back: what was read counts, kept or not.
            if not self._told:
                logger.warning("the keys cannot be kept for a start without the database: %s", error.strerror)
            self._told = True
            return
        self._kept, self._told = table, False

    def last(self) -> KeyTable | None:
        """What was kept last; None: nothing, so nobody can be let in."""
        return last_keys(self._path.parent)


def last_keys(folder: Path) -> KeyTable | None:
    """The keys that this machine read last; None: none that can be read."""
    values = read_whole(folder / KEYS)
    try:
        return None if values is None else _table(values)
    except (KeyError, TypeError, ValueError):
        return None


def _as_json(table: KeyTable) -> dict[str, Any]:
    return {"guarded": table.guarded, "records": [_record_as_json(record) for record in table.records.values()]}


def _record_as_json(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "key_id": record.key_id,
        "secret_hash": record.secret_hash,
        "name": record.name,
        "role": record.role,
        "domains": None if record.domains is None else sorted(record.domains),
        "domain_ids": None if record.domain_ids is None else sorted(record.domain_ids),
        "labeler_id": record.labeler_id,
        "rate_per_minute": record.rate_per_minute,
        "expires_at": None if record.expires_at is None else record.expires_at.isoformat(),
    }


def _table(values: dict[str, Any]) -> KeyTable:
    records = [_record(record) for record in values["records"]]
    # Whoever cannot be sure that the door is open keeps it closed.
    guarded = values["guarded"] is not False or bool(records)
    return KeyTable({record.key_id: record for record in records}, guarded=guarded)


def _record(values: dict[str, Any]) -> KeyRecord:
    domains, ids, expires_at = values["domains"], values["domain_ids"], values["expires_at"]
    return KeyRecord(
        id=int(values["id"]),
        key_id=str(values["key_id"]),
        secret_hash=str(values["secret_hash"]),
        name=str(values["name"]),
        role=str(values["role"]),
        domains=None if domains is None else frozenset(map(str, domains)),
        domain_ids=None if ids is None else frozenset(map(int, ids)),
        labeler_id=values["labeler_id"],
        rate_per_minute=values["rate_per_minute"],
        expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
    )
