"""What routes are given: the unit of work, the classifier, the settings of the loop; and the types of parameters."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from pydantic import StringConstraints
from sqlalchemy import Engine

from app.db.session import UnitOfWork
from app.errors import Malformed
from app.intent.questions import AskedQuestion
from app.services.batches import OpeningRule
from app.services.intake import Logged
from app.serving.batching import GreedyBatcher
from app.serving.classifier import Classifier, Secret
from app.serving.follower import Follower
from app.serving.runtime import Runtime
from app.serving.watcher import Watcher


@dataclass(slots=True)
class Services:
    """Everything that one process shares between its requests; made by `create_app`, one per application."""

    engine: Engine
    work: UnitOfWork
    secret: Secret
    runtime: Runtime
    watcher: Watcher
    folder: Follower
    log: GreedyBatcher[AskedQuestion, Logged]
    classifier: Classifier[Logged]
    rule: OpeningRule
    lease_seconds: int
    proposal_size: int
    draining: bool = False


def services(request: Request) -> Services:
    """What the application was built with."""
    found: Services = request.app.state.services
    return found


def unit_of_work(request: Request) -> UnitOfWork:
    """Runs a service in a transaction that is committed before the answer leaves."""
    return services(request).work


ServicesDep = Annotated[Services, Depends(services)]
Work = Annotated[UnitOfWork, Depends(unit_of_work)]

# A name that no domain can have is answered 404 like any unknown one, so the parameter takes every string.
DomainQuery = Annotated[str, Query(max_length=200, description="name of the domain")]
DomainName = Annotated[str, StringConstraints(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[str | None, Query(max_length=40, description="`next_cursor` of the page before")]

LABELER_PATTERN = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]{0,126}[^\s\x00-\x1f\x7f])?$"
LabelerId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=LABELER_PATTERN)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^\S$|^\S[^\r\n]*\S$")]
LabelPath = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Short = Annotated[str, StringConstraints(max_length=255)]

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


def next_cursor(rows: Any, limit: int) -> str | None:
    """Where the next page begins, or None on the last one."""
    return str(rows[-1].id) if len(rows) == limit else None
