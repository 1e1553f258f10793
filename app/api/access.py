"""Who calls, as what and in which domains; and the role that each route names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from app.api.keyring import KeyRing
from app.api.tracing import current_trace_id
from app.errors import DomainNotFound, Forbidden, OtherLabeler, RateLimited, Unauthenticated
from app.services.audit import Actor
from app.services.keys import ROLES, KeyRecord

ADMIN = "admin"
OPEN = Actor("local")
SECURITY_SCHEMES = {
    "Bearer": {"type": "http", "scheme": "bearer", "description": "a key: `Authorization: Bearer il_…`"},
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same key"},
}
_MEMO = "intentloop.access"


@dataclass(frozen=True, slots=True)
class Access:
    """What the caller of one request may do. Without keys everybody on the machine is an admin of everything."""

    actor: Actor
    role: str
    # None: every domain.
    domains: frozenset[str] | None = None
    domain_ids: frozenset[int] | None = None
    labeler_id: str | None = None

    @property
    def with_key(self) -> bool:
        """Whether a key says who this is."""
        return self.actor.key_id is not None

    def sees(self, domain: str) -> bool:
        """Whether the domain exists for this caller, if it exists."""
        return self.domains is None or domain in self.domains

    def require(self, domain: str) -> None:
        """Refuse a domain that this caller may not see, in the words for one that does not exist.

        Raises:
            DomainNotFound.
        """
        if not self.sees(domain):
            raise DomainNotFound("there is no domain of this name")

    def require_labeler(self, labeler_id: str) -> None:
        """Refuse to speak for another labeler than the key's.

        Raises:
            OtherLabeler.
        """
        if self.labeler_id is not None and labeler_id != self.labeler_id:
            raise OtherLabeler("this key speaks for one labeler, and labeler_id names another")

    def by(self, given: str) -> str:
        """Who does something: the key's name, or without keys what the caller says."""
        return self.actor.name if self.with_key else given


async def access(request: Request) -> Access:
    """Let the caller of this request in; once per request, whoever asks.

    Raises:
        Unauthenticated: no key, or none that counts.
        RateLimited: too many requests of this key in a minute.
    """
    known: Access | None = request.scope.get(_MEMO)
    if known is None:
        request.scope[_MEMO] = known = await _admit(request)
    return known


async def identity(request: Request) -> Access | None:
    """Who calls an open route, or None for anybody: a missing or wrong key is no reason to refuse it."""
    ring: KeyRing = request.app.state.services.keys
    if not ring.guarded:
        return _everything()
    record = ring.find(credential(request.headers) or "")
    return _of(record) if record is not None else None


async def _admit(request: Request) -> Access:
    ring: KeyRing = request.app.state.services.keys
    if not ring.guarded:
        return _everything()
    given = credential(request.headers)
    if given is None:
        raise Unauthenticated("a key is needed: send it as `Authorization: Bearer <key>`")
    if ring.may_be_new(given):
        await ring.look_for(given)
    record = ring.find(given)
    if record is None:
        raise Unauthenticated("the key is unknown, revoked or expired")
    if seconds := ring.seconds_to_wait(record):
        raise RateLimited("this key has used up its requests of a minute", retry_after_seconds=seconds)
    return _of(record)


def _everything() -> Access:
    trace_id = current_trace_id()
    return Access(Actor(OPEN.name, trace_id=trace_id) if trace_id else OPEN, ADMIN)


def _of(record: KeyRecord) -> Access:
    actor = Actor(record.name, key_id=record.key_id, trace_id=current_trace_id())
    return Access(actor, record.role, record.domains, record.domain_ids, record.labeler_id)


def credential(headers: Headers) -> str | None:
    """The key that a request carries, if any."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and given.strip():
        return given.strip()
    return headers.get("x-api-key") or None


class Needs:
    """The roles that may use a route; an admin may use every one."""

    def __init__(self, roles: Sequence[str], *, everywhere: bool) -> None:
        self.roles = frozenset(roles) | {ADMIN}
        self.everywhere = everywhere

    async def __call__(self, request: Request) -> None:
        """Refuse a caller whose key does not suffice.

        Raises:
            Forbidden.
        """
        caller = await access(request)
        if caller.role not in self.roles:
            raise Forbidden(f"this takes a key of role {self.in_words}, and this one is of role {caller.role}")
        if self.everywhere and caller.domains is not None:
            raise Forbidden("this takes a key for all domains, and this one is for some")

    @property
    def in_words(self) -> str:
        """The roles, the least first."""
        return " or ".join(role for role in ROLES if role in self.roles)


def needs(*roles: str, everywhere: bool = False) -> Any:
    """The role that a route takes, as one of its `dependencies`; `everywhere`: and a key that is for all domains."""
    if unknown := set(roles) - set(ROLES):
        raise ValueError(f"there is no role {sorted(unknown)}")
    return Depends(Needs(roles, everywhere=everywhere))


def needed(route: APIRoute) -> Needs | None:
    """What a route takes, or None for one that is open."""
    found = [dependency.call for dependency in route.dependant.dependencies if isinstance(dependency.call, Needs)]
    return found[0] if found else None


def describe(document: dict[str, Any], routes: Sequence[APIRoute]) -> None:
    """Put the keys, and the roles that each route takes, into the OpenAPI document."""
    document.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
    for route in routes:
        taken = needed(route)
        if taken is None or not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
            operation["description"] = f"{operation['description']}\n\nRole: {taken.in_words}."
