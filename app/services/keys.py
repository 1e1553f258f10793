"""API keys: make one, show what there is, revoke one, and say what a service must know to let callers in."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import ApiKey, Domain
from app.errors import DomainNotFound, Malformed, NotFound
from app.services import audit
from app.services.audit import Actor

ROLES = ("product", "labeler", "admin")
# Enough that guessing is hopeless, so a plain hash protects it: nothing slow is needed on the way of a request.
SECRET_BYTES = 24
KEY_ID_BYTES = 6
LONGEST_NAME = 128
# What the machine writes in the place of a person's name.
RESERVED = {"clock", "command line", "local", "person", "intentloop", "import"}
_NAME = re.compile(r"[^\s\x00-\x1f\x7f\ufffd]([^\x00-\x1f\x7f\ufffd]{0,126}[^\s\x00-\x1f\x7f\ufffd])?")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a service keeps in memory of one key; the secret is not in it."""

    id: int
    key_id: str
    secret_hash: str
    name: str
    role: str
    # None: every domain, also those to come.
    domains: frozenset[str] | None
    domain_ids: frozenset[int] | None
    labeler_id: str | None
    rate_per_minute: int | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class KeyTable:
    """All keys that are not revoked, by key id. `guarded`: a key was made once, so nobody enters without one."""

    records: Mapping[str, KeyRecord]
    guarded: bool


def create(
    session: Session,
    role: str,
    *,
    by: Actor,
    name: str | None = None,
    domains: Sequence[str] | None = None,
    labeler_id: str | None = None,
    rate_per_minute: int | None = None,
    expires_days: float | None = None,
) -> tuple[ApiKey, str]:
    """Make a key, and return it with its credential: the only time that this can be read.

    A labeler's key speaks for `labeler_id`, or else for `name`; with neither it may name any labeler.

    Raises:
        Malformed: a role that there is not, a name that cannot be one, a labeler for another role.
        DomainNotFound: one of the domains does not exist.
    """
    if role not in ROLES:
        raise Malformed(f"a key's role is one of {', '.join(ROLES)}")
    if labeler_id is not None and role != "labeler":
        raise Malformed(f"only a labeler's key speaks for a labeler, not one of role {role}")
    for given in (name, labeler_id):
        _refuse_name(given)
    for domain in domains or ():
        if session.scalar(select(Domain.id).where(Domain.name == domain)) is None:
            raise DomainNotFound("there is no domain of this name")
    key_id = secrets.token_hex(KEY_ID_BYTES)
    # Found again in logs and repositories by its form: the reason for the prefix.
    credential = f"il_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    key = ApiKey(
        key_id=key_id,
        secret_hash=fingerprint(credential),
        name=name or labeler_id or f"{role} {key_id}",
        role=role,
        domains=sorted(set(domains)) if domains else None,
        labeler_id=(labeler_id or name) if role == "labeler" else None,
        rate_per_minute=rate_per_minute,
        created_by=by.name,
        expires_at=database_time(session) + timedelta(days=expires_days) if expires_days else None,
    )
    session.add(key)
    session.flush()
    shown = {"name": key.name, "role": role, "domains": key.domains, "labeler_id": key.labeler_id}
    audit.note(session, by, "key.create", key_id, after=shown)
    return key, credential


def fingerprint(credential: str) -> str:
    """What is kept of a credential: its SHA-256, 64 hex digits."""
    return hashlib.sha256(credential.encode()).hexdigest()


def listing(session: Session) -> Sequence[ApiKey]:
    """All keys, revoked ones too, the oldest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.id)).all()


def revoke(session: Session, key_id: str, *, by: Actor) -> ApiKey:
    """End a key for good: running services refuse it within about a second. Once more changes nothing.

    Raises:
        NotFound: there is no key of this id.
    """
    key = session.scalar(select(ApiKey).where(ApiKey.key_id == key_id).with_for_update())
    if key is None:
        raise NotFound("there is no key of this id")
    if key.revoked_at is None:
        key.revoked_at = database_time(session)
        audit.note(session, by, "key.revoke", key_id, before={"name": key.name, "role": key.role})
        session.flush()
    return key


def any_was_made(session: Session) -> bool:
    """Whether a key was ever made: from then on nobody enters without one, also when all are revoked."""
    return session.scalar(select(ApiKey.id).limit(1)) is not None


def any_is_left(session: Session) -> bool:
    """Whether a key would still be let in."""
    not_over = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > database_time(session))
    return session.scalar(select(ApiKey.id).where(ApiKey.revoked_at.is_(None), not_over).limit(1)) is not None


def table(session: Session) -> KeyTable:
    """What a service polls once a second: the keys that count, and the ids of the domains that they name."""
    rows = session.execute(
        select(
            ApiKey.id,
            ApiKey.key_id,
            ApiKey.secret_hash,
            ApiKey.name,
            ApiKey.role,
            ApiKey.domains,
            ApiKey.labeler_id,
            ApiKey.rate_per_minute,
            ApiKey.expires_at,
        ).where(ApiKey.revoked_at.is_(None))
    ).all()
    named = {name for row in rows for name in row.domains or ()}
    ids: dict[str, int] = {}
    if named:
        ids = dict(session.execute(select(Domain.name, Domain.id).where(Domain.name.in_(named))).all())
    records = {
        row.key_id: KeyRecord(
            row.id,
            row.key_id,
            row.secret_hash,
            row.name,
            row.role,
            None if row.domains is None else frozenset(row.domains),
            None if row.domains is None else frozenset(ids[name] for name in row.domains if name in ids),
            row.labeler_id,
            row.rate_per_minute,
            row.expires_at,
        )
        for row in rows
    }
    return KeyTable(records, guarded=bool(records) or any_was_made(session))


def note_use(session: Session, used: Mapping[int, datetime]) -> None:
    """Write down when keys were used last, never an earlier time over a later one."""
    for key, moment in sorted(used.items()):
        session.execute(
            update(ApiKey)
            .where(ApiKey.id == key, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < moment))
            .values(last_used_at=moment)
        )


def _refuse_name(name: str | None) -> None:
    if name is None:
        return
    if not _NAME.fullmatch(name):
        raise Malformed(f"a name has 1–{LONGEST_NAME} characters, no control characters, no spaces around it")
    if name.casefold() in RESERVED:
        raise Malformed(f"the name {name!r} is the machine's own")
