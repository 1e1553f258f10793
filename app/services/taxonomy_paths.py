"""Labels take other paths: on their rows, in their rules, in what waiting texts and a domain's settings show."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.bulk import update_rows
from app.db.tables import Domain, KeywordRule, Label, Text
from app.services.label_projection import Projection, paged
from app.services.texts import windows


def take(session: Session, domain: Domain, labels: Sequence[Label], paths: Mapping[int, str]) -> None:
    """Give these labels of the domain, which is locked, these paths by their ids, everywhere but in the past."""
    new = {label.path: paths[label.id] for label in labels}
    for label in labels:
        label.former_paths = [*(path for path in label.former_paths or () if path != paths[label.id]), label.path]
        label.path = paths[label.id]
    session.flush()
    for rule in session.scalars(
        select(KeywordRule)
        .where(KeywordRule.domain_id == domain.id, KeywordRule.label_id.in_(list(paths)))
        .order_by(KeywordRule.id)
    ):
        rule.intent = paths[rule.label_id or 0]
    if domain.confusion_pairs is not None:
        domain.confusion_pairs = [[new.get(path, path) for path in pair] for pair in domain.confusion_pairs]
    session.flush()
    rename_answers(session, domain.id, new)


def pairs_without(pairs: Sequence[Sequence[str]], gone: Mapping[str, str | None]) -> list[list[str]]:
    """Confused pairs where these labels gave way to another, or to none: who was merged is confused as it was.

    A pair of one label left, or of the same two again, is none. `gone`: path -> the path that stands for it, or None.
    """
    kept: dict[tuple[str, ...], None] = {}
    for pair in pairs:
        stand = {gone.get(path, path) for path in pair}
        if None not in stand and len(stand) > 1:
            kept.setdefault(tuple(sorted(str(path) for path in stand)))
    return [list(pair) for pair in kept]


def show(session: Session, texts: Sequence[Any], paths: Mapping[int, str]) -> None:
    """Let the questions of these texts, which are held, show these paths of their labels."""
    projection = Projection()
    by_label: dict[int, list[Any]] = {}
    for text in texts:
        by_label.setdefault(text.label_id, []).append(text)
    for label_id, theirs in by_label.items():
        projection.bring(session, theirs, {"correct_intent": [paths[label_id]]})


def rename_answers(session: Session, domain_id: int, paths: Mapping[str, str], *, dry_run: bool = False) -> int:
    """Let the answers of texts that wait show these new paths in place of the old; how many show an old one."""
    columns = (Text.id, Text.intents, Text.topk)
    waits = Text.state != "labelled"
    found = [
        row.id
        for window in windows(session, domain_id)
        for row in session.execute(select(*columns).where(window, waits, Text.confidence.is_not(None)))
        if _names(row, paths)
    ]
    for page in [] if dry_run else paged(found):
        rows = session.execute(
            select(*columns).where(Text.id.in_(page)).order_by(Text.id).with_for_update(key_share=True)
        ).all()
        update_rows(
            session,
            Text,
            "id",
            {
                "id": [row.id for row in rows],
                "intents": [[paths.get(path, path) for path in row.intents] for row in rows],
                "topk": [[[paths.get(str(path), path), *rest] for path, *rest in row.topk] for row in rows],
            },
        )
    return len(found)


def _names(row: Any, paths: Mapping[str, str]) -> bool:
    return any(path in paths for path in row.intents or ()) or any(str(path) in paths for path, *_ in row.topk or ())
