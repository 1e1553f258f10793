"""Choose what people are asked next: score the waiting texts by the present model, and draw gold uniformly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import false, func, or_, select, true, update
from sqlalchemy.orm import Session

from app.db.tables import Domain, Text
from app.intent.selection import gold_draw, gold_share, interleave
from app.services import counting, texts, twin_order
from app.services.texts import TWIN, fresh_priority, is_selected

GOLD_REASON = "part of the uniform sample by which versions are judged"


@dataclass(frozen=True, slots=True)
class WaitingText:
    """A text that waits for a person and that the present version has not answered."""

    text_id: int
    text: str
    text_hash: str
    # Of the near twins that wait with it as well.
    count: int


@dataclass(frozen=True, slots=True)
class Draw:
    """One uniform draw of gold: how many were taken, of how many, and with which probability each."""

    drawn: int
    candidates: int
    probability: float


def stale(session: Session, domain_id: int, version: str, *, limit: int, after: int = 0) -> list[WaitingText]:
    """Texts in the queue that another version answered last, by id from `after` on: one page of a stream.

    All pages together read the table once, however many there are.
    """
    found: list[WaitingText] = []
    for window in texts.windows(session, domain_id, after=after):
        rows = session.execute(
            select(Text.id, Text.text, Text.text_hash, Text.count, Text.group_hash)
            .where(
                window,
                Text.state == "unlabelled",
                Text.priority.is_not(None),
                Text.text.is_not(None),
                or_(Text.scored_by.is_(None), Text.scored_by != version),
                or_(Text.strategy.is_(None), Text.strategy != TWIN),
            )
            .order_by(Text.id)
            .limit(limit - len(found))
        ).all()
        together = twin_order.asked_together(session, domain_id, {row.group_hash for row in rows})
        found += [
            WaitingText(row.id, row.text or "", row.text_hash, together.get(row.group_hash, row[3])) for row in rows
        ]
        if len(found) == limit:
            break
    return found


def rescore(session: Session, waiting: Sequence[WaitingText], topk: Sequence[list[list[Any]]], *, version: str) -> int:
    """Store the version's answers and the priorities that follow. `topk`: one list per text, best first."""
    rows: list[dict[str, Any]] = []
    for text, best in zip(waiting, topk, strict=True):
        priority = fresh_priority(text.text_hash, text.count, best)
        rows.append(
            {
                "id": text.text_id,
                "topk": best,
                "intents": [best[0][0]],
                "confidence": best[0][1],
                "scored_by": version,
                "priority": priority.value,
                "strategy": priority.strategy,
                "reason": priority.reason,
            }
        )
    # While they were scored, some may have been answered: those wait no longer.
    still = session.execute(
        select(Text.id, Text.is_gold, Text.priority)
        .where(Text.id.in_([text.text_id for text in waiting]), Text.state == "unlabelled")
        .order_by(Text.id)
        .with_for_update(key_share=True)
    ).all()
    # Drawn gold keeps its place: a place by uncertainty would make the draw anything but uniform. What was selected
    # keeps it until the next selection.
    placed = {text_id for text_id, is_gold, priority in still if is_gold or is_selected(priority)}
    others = {text_id for text_id, *_ in still} - placed
    answers = ("id", "topk", "intents", "confidence", "scored_by")
    by_place: Mapping[bool, list[dict[str, Any]]] = {
        True: [{key: row[key] for key in answers} for row in rows if row["id"] in placed],
        False: [row for row in rows if row["id"] in others],
    }
    for page in by_place.values():
        if page:
            session.execute(update(Text), page)
    return len(still)


def draw_gold(session: Session, domain: Domain, *, size: int, rng: np.random.Generator) -> Draw:
    """Bring gold candidates into the queue by a uniform draw, up to their share of one selection of `size`.

    The share shrinks as gold is labelled, and its interval with it. Where nothing else waits, the selection is all
    gold: the candidates are then all that is left to ask. Every drawn text that still waits takes the place of a random
    one of the selection, or without one of the queue's first, at each draw anew: more uncertain texts pass a fixed
    place all the time, and gold would starve.
    The domain must be locked: two draws at once would take two quotas.
    """
    waiting = (Text.domain_id == domain.id) & (Text.state == "unlabelled") & Text.text.is_not(None)
    # Compared, not "IS true": so the index of gold leads to it on MariaDB too, and the others need not be read.
    held_out = Text.is_gold == true()
    labelled = session.scalar(
        select(func.count(Text.id)).where(Text.domain_id == domain.id, held_out, Text.state == "labelled")
    )
    top = session.scalars(
        select(Text.priority)
        .where(waiting, Text.is_gold == false(), Text.priority >= 0.0)
        .order_by(Text.priority.desc())
        .limit(size)
    ).all()
    open_gold = session.scalars(
        select(Text.id).where(waiting, held_out, Text.priority >= 0.0).order_by(Text.id).with_for_update(key_share=True)
    ).all()
    share = gold_share(labelled or 0) if top else 1.0
    quota = max(0, round(share * size) - len(open_gold))
    candidates = session.scalars(
        select(Text.id)
        .where(waiting, held_out, Text.priority.is_(None), Text.train_allowed.is_(True))
        .order_by(Text.id)
    ).all()
    drawn, probability = gold_draw(candidates, quota, rng)
    # One that is answered at this moment was drawn all the same, and waits no longer.
    chosen = _still_waiting(session, drawn)
    places = [priority for priority in top if is_selected(priority)] or top
    _place(session, [*open_gold, *chosen], [float(priority or 0.0) for priority in places], rng)
    counting.queued(session, domain.id, len(chosen))
    if chosen:
        session.execute(
            update(Text)
            .where(Text.id.in_(chosen))
            .values(strategy="gold", reason=GOLD_REASON, sampling_probability=float(probability))
        )
    return Draw(len(chosen), len(candidates), float(probability))


def _still_waiting(session: Session, text_ids: Sequence[int]) -> Sequence[int]:
    if not text_ids:
        return []
    return session.scalars(
        select(Text.id)
        .where(Text.id.in_(text_ids), Text.state == "unlabelled", Text.text.is_not(None))
        .order_by(Text.id)
        .with_for_update(key_share=True)
    ).all()


def _place(session: Session, text_ids: Sequence[int], queue: Sequence[float], rng: np.random.Generator) -> None:
    if text_ids:
        places = interleave(queue, len(text_ids), rng)
        rows = [{"id": text_id, "priority": place} for text_id, place in zip(text_ids, places, strict=True)]
        session.execute(update(Text), rows)
