"""What was taken back: an annotation stays, and another one retracts it."""

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import aliased

from app.db.tables import Annotation


def stands() -> ColumnElement[bool]:
    """Whether an annotation was not taken back: a condition on `Annotation`.

    Counted and not "exists": that MariaDB turns into a list of all retractions, made for each text that it passes.
    """
    retraction = aliased(Annotation)
    times = (
        select(func.count())
        .select_from(retraction)
        .where(retraction.supersedes_id == Annotation.id, retraction.kind == "retract")
        .correlate(Annotation)
        .scalar_subquery()
    )
    return times == 0
