"""The keys as one process knows them: read once a second, matched and counted without the database."""

import asyncio
import hmac
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.services.keys import KeyRecord, KeyTable, fingerprint

logger = logging.getLogger(__name__)

FORM = re.compile(r"il_([0-9a-f]{12})_([0-9A-Za-z_-]{20,100})")
# An unknown key is looked for in the database, for it may be new; but not oftener than this, whoever guesses.
LOOK_AGAIN_SECONDS = 0.2
WRITE_USE_SECONDS = 60.0


class KeyRing:
    """Holds the keys that count. `read` and `note_use` reach the database; `limiter` counts in this process alone."""

    def __init__(
        self,
        read: Callable[[], KeyTable],
        note_use: Callable[[Mapping[int, datetime]], None],
        *,
        rate_per_minute: int,
    ) -> None:
        self._read = read
        self._note_use = note_use
        self._rate = rate_per_minute
        # Closed until the keys were read for the first time.
        self._table = KeyTable({}, guarded=True)
        self._was_guarded = False
        self._tried_at = -math.inf
        self._reading = threading.Lock()
        self._used: dict[int, datetime] = {}
        self._written: dict[int, float] = {}
        # It keeps one number per key and minute, however often a key is used.
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    @property
    def guarded(self) -> bool:
        """Whether nobody enters without a key: from the first one that was ever made."""
        return self._table.guarded

    def refresh(self, *, since: float = math.inf) -> None:
        """Read the keys anew, from any thread, unless another began to at or after `since` (monotonic seconds)."""
        with self._reading:
            if self._tried_at >= since:
                return
            self._tried_at = time.monotonic()
            self._take(self._read())

    def take(self, table: KeyTable) -> None:
        """Let these in until the keys can be read."""
        with self._reading:
            self._take(table)

    def _take(self, table: KeyTable) -> None:
        if table.guarded and not self._table.guarded:
            logger.warning("the first key was made: from now on nobody enters without one")
        # Once guarded, always: also if somebody empties the table.
        self._table = KeyTable(table.records, guarded=table.guarded or self._was_guarded)
        self._was_guarded = self._table.guarded

    async def look_for(self, credential: str) -> None:
        """Look for an unknown key, which may be a moment old.

        However many come at once share one look, and looks are some time apart: guessing is no storm of reads.
        """
        asked_at = time.monotonic()
        await asyncio.sleep(self._tried_at + LOOK_AGAIN_SECONDS - asked_at)
        if self.may_be_new(credential):
            await asyncio.to_thread(self.refresh, since=asked_at)

    def may_be_new(self, credential: str) -> bool:
        """Whether this has the form of a key, and none of its id was there at the last look."""
        key_id = _key_id(credential)
        return key_id is not None and key_id not in self._table.records

    def find(self, credential: str) -> KeyRecord | None:
        """The key of this credential if it counts now."""
        key_id = _key_id(credential)
        record = self._table.records.get(key_id) if key_id is not None else None
        if record is None or not hmac.compare_digest(record.secret_hash, fingerprint(credential)):
            return None
        now = datetime.now(UTC)
        if record.expires_at is not None and record.expires_at <= now:
            return None
        self._used[record.id] = now
        return record

    def seconds_to_wait(self, record: KeyRecord) -> int:
        """Count one request of this key: 0, or after how many seconds the next one will be let in."""
        limit = RateLimitItemPerMinute(record.rate_per_minute or self._rate)
        if self._limiter.hit(limit, record.key_id):
            return 0
        return max(1, math.ceil(self._limiter.get_window_stats(limit, record.key_id).reset_time - time.time()))

    def write_uses(self, *, every_seconds: float = WRITE_USE_SECONDS) -> None:
        """Write down the last uses, of each key at most once in so many seconds."""
        now = time.monotonic()
        due = {
            key: moment
            for key, moment in list(self._used.items())
            if now - self._written.get(key, -math.inf) >= every_seconds
        }
        if not due:
            return
        self._note_use(due)
        for key, moment in due.items():
            self._written[key] = now
            # One that was used meanwhile is written the next time.
            if self._used.get(key) == moment:
                del self._used[key]


def _key_id(credential: str) -> str | None:
    found = FORM.fullmatch(credential)
    return found[1] if found is not None else None
