"""Changes of a taxonomy after labels were given: try one, make it, see what was made, take it back."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator
from sqlalchemy.orm import Session

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    PREFIX,
    Body,
    Caller,
    Cursor,
    DomainName,
    DomainQuery,
    LabelPath,
    Limit,
    PathId,
    Short,
    Work,
    next_cursor,
    page_before,
)
from app.api.problems import responses
from app.db.tables import TaxonomyChange
from app.errors import NotFound
from app.intent.masking import mask
from app.intent.taxonomy_changes import KEEP, MOST_NAMED, Wanted
from app.intent.text import normalise
from app.services import domains, taxonomy_changes, taxonomy_undo
from app.services.domains import DEFAULT
from app.services.taxonomy_changes import Made

router = APIRouter(prefix=f"{PREFIX}/taxonomy/changes", tags=["domains"], route_class=StrictRoute)

LARGEST_ID = 18  # digits

Kind = Literal["rename", "move", "merge", "retire", "split"]
Labels = Annotated[list[LabelPath], Field(min_length=1, max_length=MOST_NAMED)]


class ChangeRequest(Body):
    """One change, or with `dry_run` the question what it would touch."""

    domain: DomainName = DEFAULT
    kind: Kind = Field(examples=["rename"])
    label: LabelPath | None = Field(None, description="what is changed; an inner node can be renamed and moved too")
    labels: Labels | None = Field(None, description="in place of `label`, to merge or retire several")
    to: LabelPath | None = Field(None, description="rename: the new path; move: the new parent; merge: the label")
    into: Labels | None = Field(None, description="split: the labels that take the place of the old one")
    texts: Literal["keep", "requeue"] = Field(KEEP, description="retire: whether its texts are asked again")
    reason: Short | None = None
    dry_run: bool = False

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if (self.label is None) == (self.labels is None):
            raise ValueError("send either `label` or `labels`")
        return self

    def wanted(self) -> Wanted:
        """The change as the service takes it."""
        labels = (self.label,) if self.label is not None else tuple(self.labels or ())
        return Wanted(self.kind, labels, self.to, tuple(self.into or ()), self.texts)


class TouchedOut(BaseModel):
    """How much a change is about."""

    labels: int
    texts: int = Field(description="labelled texts, held out ones included")
    gold_texts: int
    questions: int
    annotations: int
    rules: int
    waiting_texts: int = Field(description="texts in the queue whose answer shows an old path")
    batches: list[str] = Field(description="batches that hold some of the texts, with the label that was frozen")


class ChangeOut(BaseModel):
    """What was done, or would be: then without an id."""

    id: int | None
    kind: Kind
    touched: TouchedOut
    taxonomy_version: int
    dry_run: bool


class MadeChangeOut(BaseModel):
    """A change as it stands in the history."""

    id: int
    kind: Kind
    arguments: dict[str, Any]
    touched: TouchedOut
    taxonomy_version: int
    made_by: str
    reason: str | None
    created_at: datetime
    undone_at: datetime | None
    undone_by: str | None


class ChangesOut(BaseModel):
    """The newest first."""

    items: list[MadeChangeOut]
    next_cursor: str | None


class ChangeUndoneOut(BaseModel):
    """A change that was taken back."""

    id: int
    kind: Kind
    restored_texts: int
    kept_texts: int = Field(description="texts that keep what people said about them since")
    taxonomy_version: int


@router.post(
    "",
    response_model=ChangeOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("admin")],
)
def change_taxonomy(body: ChangeRequest, work: Work, who: Caller) -> ChangeOut:
    """Rename, move, merge, retire or split labels that were given already."""
    reason = mask(normalise(body.reason))[:255] if body.reason else None

    def make(session: Session) -> Made:
        return taxonomy_changes.make(session, body.domain, body.wanted(), by=who, reason=reason, dry_run=body.dry_run)

    made = work.read(make) if body.dry_run else work(make)
    return ChangeOut(
        id=made.id,
        kind=body.kind,
        touched=TouchedOut.model_validate(made.touched, from_attributes=True),
        taxonomy_version=made.taxonomy_version,
        dry_run=body.dry_run,
    )


@router.get(
    "",
    response_model=ChangesOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("admin")],
)
def list_changes(work: Work, domain: DomainQuery = DEFAULT, limit: Limit = 50, cursor: Cursor = None) -> ChangesOut:
    """The changes of a domain's taxonomy."""
    before = page_before(cursor)

    def read(session: Session) -> ChangesOut:
        rows = taxonomy_changes.listing(session, domains.find(session, domain).id, limit=limit, before=before)
        return ChangesOut(items=[_made(row) for row in rows], next_cursor=next_cursor(rows, limit))

    return work.read(read)


@router.post(
    "/{change_id}/undo",
    response_model=ChangeUndoneOut,
    responses=responses(404, 409, 422, 503),
    dependencies=[needs("admin")],
)
def undo_change(change_id: PathId, work: Work, who: Caller) -> ChangeUndoneOut:
    """Take a change back. What people answered since stays."""
    if not change_id.isdigit() or len(change_id) > LARGEST_ID:
        raise NotFound("there is no change of the taxonomy of this id")

    def undo(session: Session) -> ChangeUndoneOut:
        undone = taxonomy_undo.undo(session, int(change_id), by=who)
        return ChangeUndoneOut.model_validate(
            {
                "id": undone.change.id,
                "kind": undone.change.kind,
                "restored_texts": undone.restored_texts,
                "kept_texts": undone.kept_texts,
                "taxonomy_version": undone.taxonomy_version,
            }
        )

    return work(undo)


def _made(change: TaxonomyChange) -> MadeChangeOut:
    return MadeChangeOut.model_validate(change, from_attributes=True)
