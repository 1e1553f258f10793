"""Keys: what is kept of one, who it may be for, and how it ends."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.db.session import UnitOfWork
from app.db.tables import ApiKey, AuditEvent
from app.errors import DomainNotFound, Malformed, NotFound
from app.services import domains, keys
from app.services.audit import COMMAND_LINE, Actor
from tests.builders import column, domain_id


def make(work: UnitOfWork, role: str = "product", **more: Any) -> tuple[ApiKey, str]:
    return work(keys.create, role, by=COMMAND_LINE, **more)


def test_of_a_key_only_its_hash_is_kept(work: UnitOfWork) -> None:
    key, credential = make(work, name="shop")
    prefix, key_id, secret = credential.split("_", 2)
    assert (prefix, key_id) == ("il", key.key_id)
    assert len(secret) >= 32  # 24 random bytes
    everything = str([column(work, *(getattr(ApiKey, name) for name in ApiKey.__table__.columns.keys()))])  # noqa: SIM118
    everything += str(column(work, AuditEvent.subject, AuditEvent.before, AuditEvent.after))
    assert secret not in everything
    assert column(work, ApiKey.secret_hash) == [hashlib.sha256(credential.encode()).hexdigest()]


def test_no_two_keys_are_alike(work: UnitOfWork) -> None:
    assert len({make(work)[1].split("_", 2)[2] for _ in range(20)}) == 20


def test_a_service_reads_what_it_must_know(work: UnitOfWork) -> None:
    assert work.read(keys.table) == keys.KeyTable({}, guarded=False)
    work(domains.create, "shop")
    one, _ = make(work, domains=["shop", "default", "shop"], rate_per_minute=7)
    all_, _ = make(work, "admin")
    table = work.read(keys.table)
    assert table.guarded
    assert table.records[one.key_id].domains == {"default", "shop"}
    assert table.records[one.key_id].domain_ids == {domain_id(work), domain_id(work, "shop")}
    assert table.records[one.key_id].rate_per_minute == 7
    assert table.records[all_.key_id].domains is table.records[all_.key_id].domain_ids is None


def test_once_there_was_a_key_the_door_stays_shut(work: UnitOfWork) -> None:
    assert not work.read(keys.any_was_made)
    key, _ = make(work)
    assert work.read(keys.any_is_left)
    work(keys.revoke, key.key_id, by=COMMAND_LINE)
    assert work.read(keys.table) == keys.KeyTable({}, guarded=True)
    assert work.read(keys.any_was_made)
    assert not work.read(keys.any_is_left)


def test_a_key_that_is_over_is_none_that_is_left(work: UnitOfWork) -> None:
    key, _ = make(work, expires_days=2)
    [expires_at] = column(work, ApiKey.expires_at)
    assert timedelta(days=1) < expires_at - datetime.now(UTC) < timedelta(days=3)
    assert work.read(keys.any_is_left)
    work(lambda session: setattr(session.get(ApiKey, key.id), "expires_at", datetime(2020, 1, 1, tzinfo=UTC)))
    assert not work.read(keys.any_is_left)


def test_to_revoke_again_changes_nothing_and_to_revoke_nothing_is_an_error(work: UnitOfWork) -> None:
    key, _ = make(work)
    first = work(keys.revoke, key.key_id, by=COMMAND_LINE).revoked_at
    assert work(keys.revoke, key.key_id, by=Actor("olga")).revoked_at == first
    assert column(work, AuditEvent.action) == ["key.create", "key.revoke"]
    with pytest.raises(NotFound):
        work(keys.revoke, "nothing", by=COMMAND_LINE)


@pytest.mark.parametrize(
    ("role", "more", "error"),
    [
        ("owner", {}, Malformed),
        ("product", {"labeler_id": "ana"}, Malformed),
        ("admin", {"name": ""}, Malformed),
        ("admin", {"name": " a"}, Malformed),
        ("admin", {"name": "a\nb"}, Malformed),
        ("admin", {"name": "x" * 129}, Malformed),
        ("admin", {"name": "Clock"}, Malformed),
        ("labeler", {"labeler_id": "import"}, Malformed),
        ("labeler", {"domains": ["nowhere"]}, DomainNotFound),
    ],
)
def test_a_key_that_cannot_be_meant_is_refused(
    sqlite_work: UnitOfWork, role: str, more: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make(sqlite_work, role, **more)
    assert column(sqlite_work, ApiKey.id) == column(sqlite_work, AuditEvent.id) == []


def test_a_labelers_key_speaks_for_its_labeler_or_its_name_or_anyone(sqlite_work: UnitOfWork) -> None:
    made = [
        make(sqlite_work, "labeler", name="team", labeler_id="ana")[0],
        make(sqlite_work, "labeler", name="ben")[0],
        make(sqlite_work, "labeler")[0],
        make(sqlite_work, "product", name="shop")[0],
    ]
    assert [key.labeler_id for key in made] == ["ana", "ben", None, None]
    assert [key.name for key in made[:2]] == ["team", "ben"]
    assert made[2].name == f"labeler {made[2].key_id}"


def test_the_last_use_never_goes_back(work: UnitOfWork) -> None:
    key, _ = make(work)
    late, early = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    for moment, expected in ((early, early), (late, late), (early, late)):
        work(keys.note_use, {key.id: moment})
        assert column(work, ApiKey.last_used_at) == [expected]
