"""The keys in a process's memory: few reads, whoever guesses; few writes, however often a key is used."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from app.api import keyring
from app.api.keyring import KeyRing
from app.services.keys import KeyRecord, KeyTable, fingerprint

CREDENTIAL = "il_0123456789ab_a-secret_with_underscores_in_it"


def record(credential: str = CREDENTIAL, **changes: object) -> KeyRecord:
    values: dict[str, object] = {
        "id": 1, "key_id": credential.split("_")[1], "secret_hash": fingerprint(credential), "name": "shop",
        "role": "product", "domains": None, "domain_ids": None, "labeler_id": None, "rate_per_minute": None,
        "expires_at": None,
    }  # fmt: skip
    return KeyRecord(**(values | changes))  # type: ignore[arg-type]


@dataclass
class Book:
    """The database's part, with what was asked of it."""

    table: KeyTable = field(default_factory=lambda: KeyTable({}, guarded=False))
    reads: int = 0
    written: list[Mapping[int, datetime]] = field(default_factory=list)
    error: Exception | None = None

    def read(self) -> KeyTable:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.table

    def hold(self, *records: KeyRecord) -> None:
        self.table = KeyTable({each.key_id: each for each in records}, guarded=True)


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def ring(book: Book) -> KeyRing:
    return KeyRing(book.read, book.written.append, rate_per_minute=100)


def test_closed_until_the_keys_were_read(ring: KeyRing) -> None:
    assert ring.guarded
    ring.refresh()
    assert not ring.guarded


def test_once_guarded_always(ring: KeyRing, book: Book) -> None:
    ring.refresh()
    book.hold(record())
    ring.refresh()
    book.table = KeyTable({}, guarded=False)
    ring.refresh()
    assert ring.guarded
    assert ring.find(CREDENTIAL) is None


def test_a_database_that_is_away_leaves_the_keys_as_they_were(ring: KeyRing, book: Book) -> None:
    book.hold(record())
    ring.refresh()
    book.error = ConnectionResetError()
    with pytest.raises(ConnectionResetError):
        ring.refresh()
    assert ring.guarded
    assert ring.find(CREDENTIAL) is not None


@pytest.mark.parametrize(
    "credential",
    ["", "il", "il_0123456789ab", "il_0123456789ab_", "il_0123456789ab_secret", CREDENTIAL + "x", CREDENTIAL[:-1],
     CREDENTIAL.upper(), CREDENTIAL.replace("il", "xx"), " " + CREDENTIAL, "密钥", "il_0123456789ab_" + "x" * 500],
)  # fmt: skip
def test_only_the_whole_credential_is_the_key(ring: KeyRing, book: Book, credential: str) -> None:
    book.hold(record())
    ring.refresh()
    assert ring.find(CREDENTIAL) == record()
    assert ring.find(credential) is None


def test_who_guesses_causes_few_reads(ring: KeyRing, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "LOOK_AGAIN_SECONDS", 0.1)
    ring.refresh()

    async def guess() -> None:
        await asyncio.gather(*(ring.look_for(f"il_{number:012d}_a-guess-of-the-right-form") for number in range(300)))

    asyncio.run(guess())
    assert book.reads <= 2


def test_a_new_key_is_found_by_whoever_asks_for_it_meanwhile(
    ring: KeyRing, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "LOOK_AGAIN_SECONDS", 0.05)
    ring.refresh()
    book.hold(record())

    async def ask(_: int) -> bool:
        await ring.look_for(CREDENTIAL)
        return ring.find(CREDENTIAL) is not None

    async def many() -> list[bool]:
        return await asyncio.gather(*map(ask, range(20)))

    assert asyncio.run(many()) == [True] * 20
    assert book.reads == 2


def test_uses_are_written_once_in_a_while_and_the_last_one_counts(ring: KeyRing, book: Book) -> None:
    book.hold(record())
    ring.refresh()
    ring.write_uses()
    assert book.written == []
    for _ in range(100):
        ring.find(CREDENTIAL)
    ring.write_uses()
    ring.find(CREDENTIAL)
    ring.write_uses()
    assert [list(used) for used in book.written] == [[1]]
    ring.write_uses(every_seconds=0)
    assert book.written[1][1] >= book.written[0][1]
    ring.write_uses(every_seconds=0)
    assert len(book.written) == 2


def test_a_use_that_could_not_be_written_is_written_later(ring: KeyRing, book: Book) -> None:
    book.hold(record())
    failing = KeyRing(book.read, lambda _: (_ for _ in ()).throw(ConnectionResetError()), rate_per_minute=100)
    failing.refresh()
    failing.find(CREDENTIAL)
    with pytest.raises(ConnectionResetError):
        failing.write_uses()
    failing._note_use = book.written.append
    failing.write_uses()
    assert len(book.written) == 1


def test_a_wrong_secret_is_no_use(ring: KeyRing, book: Book) -> None:
    book.hold(record())
    ring.refresh()
    ring.find(CREDENTIAL + "x")
    ring.write_uses()
    assert book.written == []


def test_the_rate_is_the_keys_own_or_the_settings(ring: KeyRing) -> None:
    own, default = record(rate_per_minute=2), record("il_ffffffffffff_another-secret-of-enough")
    assert [ring.seconds_to_wait(own) > 0 for _ in range(4)] == [False, False, True, True]
    assert sum(ring.seconds_to_wait(default) == 0 for _ in range(150)) == 100


def test_counting_is_exact_from_many_threads(ring: KeyRing) -> None:
    let_in: list[int] = []

    def ask() -> None:
        let_in.extend(ring.seconds_to_wait(record()) == 0 for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(let_in) <= 100
