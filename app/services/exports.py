"""Read the labelled texts of a domain, page by page and always in the same order, to be written elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Text
from app.services import domains, taxonomy

SPLITS = ("all", "train", "gold")
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Export:
    """What is wanted of which domain, by its id. `since`: labelled then or later."""

    domain_id: int
    split: str
    since: datetime | None
    # Path by id of the labels that may be given today.
    paths: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Summary:
    """How many texts an export will hold, and how many are left out, by reason."""

    count: int
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One text with its label's path, how often it was asked, and the label that was missed in the taxonomy."""

    text: str
    label: str
    count: int
    proposed: str | None


def begin(session: Session, domain_name: str, *, split: str = "all", since: datetime | None = None) -> Export:
    """What an export of this domain goes by from its first page to its last.

    Raises:
        DomainNotFound: there is none.
    """
    domain = domains.find(session, domain_name)
    paths = {label.id: label.path for label in taxonomy.active(session, domain.id)}
    return Export(domain.id, split, since, paths)


def summary(session: Session, export: Export) -> Summary:
    """Count first, so that what is left out can be told from what is lost."""
    rows = session.execute(
        select(Text.label_id, Text.train_allowed, Text.text.is_(None), func.count(Text.id))
        .where(*_wanted(export))
        .group_by(Text.label_id, Text.train_allowed, Text.text.is_(None))
    ).all()
    count, left_out = 0, {"not_allowed": 0, "hash_only": 0, "label_retired": 0}
    for label_id, allowed, without_text, number in rows:
        if without_text:
            left_out["hash_only"] += number
        elif not allowed:
            left_out["not_allowed"] += number
        elif label_id not in export.paths:
            left_out["label_retired"] += number
        else:
            count += number
    return Summary(count, {reason: number for reason, number in left_out.items() if number})


def page(
    session: Session, export: Export, after: str = "", *, limit: int = PAGE
) -> tuple[Sequence[LabelledText], str | None]:
    """The texts whose hash follows `after`, and what to ask the next page after; None behind the last.

    In the order of their hashes: the same texts come in the same order from every database, and no label, and nothing
    that was asked on one day, stands together.
    """
    rows = session.execute(
        select(
            Text.text_hash, Text.text, Text.label_id, Text.count.label("asked"), Text.proposed_label, Text.train_allowed
        )
        .where(*_wanted(export), Text.text_hash > after)
        .order_by(Text.text_hash)
        .limit(limit)
    ).all()
    texts = [
        LabelledText(row.text, export.paths[row.label_id], row.asked, row.proposed_label)
        for row in rows
        if row.text is not None and row.train_allowed and row.label_id in export.paths
    ]
    return texts, rows[-1].text_hash if len(rows) == limit else None


def _wanted(export: Export) -> list[Any]:
    conditions = [Text.domain_id == export.domain_id, Text.state == "labelled"]
    if export.split != "all":
        conditions.append(Text.is_gold.is_(export.split == "gold"))
    if export.since is not None:
        conditions.append(Text.labelled_at >= export.since)
    return conditions
