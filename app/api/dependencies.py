"""What routes are given: the unit of work, the classifier, the settings of the loop; and the types of parameters."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Header, Path, Query, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, WithJsonSchema
from sqlalchemy import Engine

from app.api.access import Access, access, identity
from app.api.keyring import KeyRing
from app.db.guard import Guard
from app.db.notices import Listener
from app.db.session import UnitOfWork
from app.errors import DomainNotFound, Malformed, NotFound
from app.generative import Generative
from app.intent.questions import AskedQuestion
from app.intent.text import normalise
from app.remembered_keys import RememberedKeys
from app.reporting import Reporter
from app.services.audit import Actor
from app.services.batches import OpeningRule
from app.services.domains import NAME
from app.services.intake import Logged
from app.serving.classifier import Classifier, Secret
from app.serving.follower import Follower
from app.serving.log import LogWriter, Spooled
from app.serving.runtime import Runtime
from app.serving.watcher import Watcher


class Extract(Protocol):
    """Mines the rules of a domain beside this process, and returns counts by their names, and `rule_ids`."""

    def __call__(self, domain: str, *, min_confidence: float, limit: int, by: Actor) -> dict[str, Any]: ...

    def close(self) -> None: ...


LONGEST_LABEL = 1000
LONGEST_OBJECT = 10_000
LARGEST_ID = 18  # digits
ID = re.compile(r"[0-9A-Za-z_-]+")


@dataclass(slots=True)
class Services:
    """Everything that one process shares between its requests; made by `create_app`, one per application.

    `work` sees every domain: a route takes `Work` instead, which sees the caller's.
    """

    engine: Engine
    work: UnitOfWork
    secret: Secret
    runtime: Runtime
    watcher: Watcher
    listener: Listener
    reporter: Reporter
    folder: Follower
    keys: KeyRing
    known_keys: RememberedKeys
    porter: Follower
    log: LogWriter[Logged]
    # Writes many at once, with the caller's unit of work.
    take_in: Callable[[UnitOfWork, Sequence[AskedQuestion]], list[Logged]]
    guard: Guard
    classifier: Classifier[Logged | Spooled]
    rule: OpeningRule
    lease_seconds: int
    proposal_size: int
    extract: Extract
    # None: the generative tier is switched off.
    generative: Generative | None = None
    draining: bool = False


# Neither waits for anything, but a plain `def` would cost each request a walk to another thread and back.
async def services(request: Request) -> Services:
    """What the application was built with."""
    found: Services = request.app.state.services
    return found


async def unit_of_work(request: Request) -> UnitOfWork:
    """Runs a service in a transaction that is committed before the answer leaves, and sees the caller's domains."""
    work = (await services(request)).work
    allowed = (await access(request)).domain_ids
    return work.for_request(allowed)


async def caller(request: Request) -> Actor:
    """Who makes this request, for the audit trail."""
    return (await access(request)).actor


AccessDep = Annotated[Access, Depends(access)]
Identity = Annotated[Access | None, Depends(identity)]
Caller = Annotated[Actor, Depends(caller)]
ServicesDep = Annotated[Services, Depends(services)]
Work = Annotated[UnitOfWork, Depends(unit_of_work)]


class Body(BaseModel):
    """A body from outside. Its types are JSON's own: `true` is no number, and `"0.5"` is no confidence."""

    model_config = ConfigDict(strict=True)


def _possible_domain(name: str) -> str:
    # A name that no domain can have is unknown like any other, and never reaches a database: PostgreSQL takes no NUL,
    # and to MariaDB "default " is "default".
    if not NAME.fullmatch(name):
        raise DomainNotFound("there is no domain of this name")
    return name


def _possible_id(value: str) -> str:
    # As for domains: none of our ids holds anything else.
    if not ID.fullmatch(value):
        raise NotFound("there is nothing of this id")
    return value


def _integral(value: Any) -> Any:
    # To JSON Schema 5.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _normal_label(path: str) -> str:
    path = normalise(path)
    if not path or len(path) > LONGEST_LABEL:
        raise ValueError(f"a label has 1 to {LONGEST_LABEL} visible characters")
    return path


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value, ensure_ascii=False)) > LONGEST_OBJECT:
        raise ValueError(f"an object may have {LONGEST_OBJECT} characters as JSON")
    return value


Whole = Annotated[int, BeforeValidator(_integral)]
# Written without `prefixItems`, which OpenAPI 3.0 and many readers of 3.1 do not know.
Guess = Annotated[
    tuple[str, float],
    WithJsonSchema(
        {
            "type": "array",
            "description": "[label, probability]",
            "items": {"anyOf": [{"type": "string"}, {"type": "number"}]},
            "minItems": 2,
            "maxItems": 2,
        }
    ),
]
DomainName = Annotated[str, StringConstraints(max_length=200), AfterValidator(_possible_domain)]
DomainPath = Annotated[str, AfterValidator(_possible_domain), Path(max_length=200, description="name of the domain")]
DomainQuery = Annotated[str, AfterValidator(_possible_domain), Query(max_length=200, description="name of the domain")]
PathId = Annotated[str, AfterValidator(_possible_id), Path(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[str | None, Query(max_length=40, description="`next_cursor` of the page before")]

# U+FFFD stands where a NUL was: two people must not become one by it.
LABELER_PATTERN = r"^[^\s\x00-\x1f\x7f\ufffd]([^\x00-\x1f\x7f\ufffd]{0,126}[^\s\x00-\x1f\x7f\ufffd])?$"
LabelerId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=LABELER_PATTERN)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^\S$|^\S[^\r\n]*\S$")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^\S+$",
        description="stands in for a missing `request_id`",
    ),
]
LabelPath = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_LABEL), AfterValidator(_normal_label)]
Short = Annotated[str, StringConstraints(max_length=255)]
SmallObject = Annotated[dict[str, Any], AfterValidator(_small)]

PREFIX = "/api/v1/model-tuning"


def page_before(cursor: str | None) -> int | None:
    """The row that the last page ended with.

    Raises:
        Malformed: the cursor is none of ours.
    """
    if cursor is None:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise Malformed("cursor: not the next_cursor of a page")
    return int(cursor)


def row_id(value: str, thing: str) -> int:
    """The row that a path names; `thing` is what it is called.

    Raises:
        NotFound: it is no number of a row.
    """
    if not (value.isascii() and value.isdigit()) or len(value) > LARGEST_ID:
        raise NotFound(f"there is no {thing} of this id")
    return int(value)


def next_cursor(rows: Any, limit: int) -> str | None:
    """Where the next page begins, or None on the last one."""
    return str(rows[-1].id) if len(rows) == limit else None
