"""Hand texts out to labelers: the ones most worth a person's time, each held by as many as are to answer it."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Annotation, Domain, Lease, Text
from app.errors import Malformed, NoTexts
from app.intent.selection_mix import STRATEGIES as MIXED
from app.intent.text import MaskedText, text_hash
from app.services import blind_answers, leases, retractions, reviews, twin_order
from app.services.texts import NEW_SCENARIO, SELECTED

MOST_LEASED = 100
# The index of texts by domain, state and hash.
BY_HASH = "ix_intent_texts_domain_id_state_text_hash"

Statement = Select[Text]


# One after the other, until there are enough texts.
Stretches = Sequence[Statement]


def _by_priority(statement: Statement) -> Stretches:
    return [statement.order_by(Text.priority.desc(), Text.id.desc())]


def _at_random(statement: Statement) -> Stretches:
    # Hashes are uniform, so those beyond a random point are a random sample from an index; the first follow the last.
    point = text_hash(MaskedText(uuid.uuid4().hex))
    ordered = statement.order_by(Text.text_hash)
    # Of a point near the end MySQL and MariaDB would take all that lies beyond it, by another index, and sort it.
    for dialect in ("mysql", "mariadb"):
        ordered = ordered.with_hint(Text, f"FORCE INDEX ({BY_HASH})", dialect)
    return [ordered.where(Text.text_hash >= point), ordered.where(Text.text_hash < point)]


STRATEGIES: Mapping[str, Callable[[Statement], Stretches]] = {
    "priority": _by_priority,
    "random": _at_random,
    reviews.STRATEGY: reviews.by_suspicion,
}


def _order(strategy: str) -> Callable[[Statement], Stretches]:
    """How the queue is read.

    Raises:
        Malformed: no such strategy.
    """
    if strategy in STRATEGIES:
        return STRATEGIES[strategy]
    known = dict.fromkeys([*STRATEGIES, *MIXED, NEW_SCENARIO])
    if strategy not in known:
        raise Malformed(f"strategy must be one of {', '.join(known)}")
    # What was selected lies on top: no more is read than one selection.
    return lambda statement: _by_priority(statement.where(Text.priority > SELECTED, Text.strategy == strategy))


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One text with the answer it has, and the lease if one was taken."""

    question_id: str
    question: str
    count: int
    # It and its near twins, of which it is asked first.
    group_size: int
    intents: list[str]
    confidence: float | None
    topk: list[list[Any]]
    priority: float
    reason: str | None
    strategy: str | None
    sampling_probability: float | None
    lease_token: str | None
    lease_expires_at: datetime | None
    # Of a labelled text whose label is in doubt.
    review: reviews.Review | None = None


def unlabelled(
    session: Session,
    domain: Domain,
    *,
    limit: int,
    strategy: str | None = None,
    labeler_id: str | None = None,
    lease_seconds: int = 900,
) -> list[QueueItem]:
    """The next texts for a labeler, leased to them; without a labeler only a look.

    What the labeler holds already comes first, its lease renewed under the same token; then the queue fills up to
    `limit`, at most 100. `strategy`: `priority`, `random`, or the strategy that selected the texts.

    Raises:
        NoTexts: the domain keeps no text.
        Malformed: no such strategy.
    """
    if not domain.keep_text:
        raise NoTexts(f"domain {domain.name!r} keeps no text, so there is nothing to label")
    order = _order(strategy or "priority")
    moment = database_time(session)
    reviewing = strategy == reviews.STRATEGY
    if labeler_id is None:
        waiting = reviews.waiting(domain.id) if reviewing else _waiting(domain.id)
        seen = _fill(session, order(_free(waiting, moment)), limit)
        return _items(session, domain.id, [(text, None) for text in seen], reviewing=reviewing)
    until = moment + timedelta(seconds=lease_seconds)
    held = _held(session, domain.id, labeler_id, moment, reviewing=reviewing)[: min(limit, MOST_LEASED)]
    leases.renew(session, held, until, overlap=domain.overlap)
    room = min(limit, MOST_LEASED) - len(held)
    take = _take_reviews if reviewing else _take
    taken = take(session, domain, order, room, labeler_id, moment, until) if room > 0 else []
    session.flush()
    return _items(session, domain.id, [*held, *taken], reviewing=reviewing)


def _waiting(domain_id: int) -> Statement:
    return select(Text).where(Text.domain_id == domain_id, Text.state == "unlabelled", Text.priority >= 0.0)


def _free(statement: Statement, moment: datetime) -> Statement:
    return statement.where(or_(Text.leased_until.is_(None), Text.leased_until <= moment))


def _fill(session: Session, stretches: Stretches, room: int) -> list[Text]:
    texts: list[Text] = []
    for stretch in stretches:
        if len(texts) < room:
            texts += session.scalars(stretch.limit(room - len(texts))).all()
    return texts


def _held(
    session: Session, domain_id: int, labeler_id: str, moment: datetime, *, reviewing: bool
) -> list[tuple[Text, Lease]]:
    ids = session.scalars(
        select(Lease.text_id).where(Lease.domain_id == domain_id, Lease.labeler_id == labeler_id)
    ).all()
    if not ids:
        return []
    # The labeler's answer may end a lease at this moment: locked as an answer locks, the text and then its lease.
    waiting = session.scalars(
        select(Text)
        .where(Text.id.in_(ids), Text.state == ("labelled" if reviewing else "unlabelled"))
        .order_by(Text.id)
        .with_for_update(key_share=True)
    ).all()
    rows = session.scalars(
        select(Lease)
        .where(Lease.text_id.in_([text.id for text in waiting]))
        .where(Lease.labeler_id == labeler_id, Lease.expires_at > moment)
        .order_by(Lease.text_id)
        .with_for_update()
    )
    by_text = {lease.text_id: lease for lease in rows}
    held = [(text, by_text[text.id]) for text in waiting if text.id in by_text]
    # Of the two a text has that of the line it waits in.
    return sorted(held, key=lambda pair: (pair[0].priority or pair[0].suspicion or 0.0, pair[0].id), reverse=True)


def _take(
    session: Session,
    domain: Domain,
    order: Callable[[Statement], Stretches],
    room: int,
    labeler_id: str,
    moment: datetime,
    until: datetime,
) -> list[tuple[Text, Lease]]:
    free = _free(_waiting(domain.id), moment).where(~skipped_by(labeler_id))
    if domain.overlap > 1:
        free = free.where(~_in_hand(labeler_id, moment))
    # Locked rows are somebody's who takes them at this moment: skipping them is what keeps fifty labelers from queueing
    # behind each other. The wait for `leased_until` is then decided on the locked, newest row.
    locking = free.with_for_update(of=Text, key_share=True, skip_locked=True)
    texts = _fill(session, order(locking), room)
    if domain.overlap == 1:
        return leases.take(session, texts, labeler_id, moment, until)
    slots = blind_answers.open_slots(session, domain, texts, labeler_id)
    return leases.take(session, [text for text in texts if text.id in slots], labeler_id, moment, until, slots=slots)


def _take_reviews(
    session: Session,
    domain: Domain,
    order: Callable[[Statement], Stretches],
    room: int,
    labeler_id: str,
    moment: datetime,
    until: datetime,
) -> list[tuple[Text, Lease]]:
    """As `_take`, of the labels that look wrong: each goes to one person, however many answered it."""
    free = _free(reviews.waiting(domain.id), moment).where(~skipped_by(labeler_id))
    locking = free.with_for_update(of=Text, key_share=True, skip_locked=True)
    return leases.take(session, _fill(session, order(locking), room), labeler_id, moment, until)


def _in_hand(labeler_id: str, moment: datetime) -> Any:
    """Whether this labeler holds the text or has answered it without sight of the others: a condition on `Text`."""
    holds = (
        select(func.count())
        .select_from(Lease)
        .where(Lease.text_id == Text.id, Lease.labeler_id == labeler_id, Lease.expires_at > moment)
        .correlate(Text)
        .scalar_subquery()
    )
    answered = (
        select(func.count())
        .select_from(Annotation)
        .where(Annotation.text_id == Text.id, Annotation.labeler_id == labeler_id, blind_answers.count_now())
        .correlate(Text)
        .scalar_subquery()
    )
    return (holds > 0) | (answered > 0)


def skipped_by(labeler_id: str) -> Any:
    """Whether this labeler skipped the text and did not take the skip back: a condition on `Text`.

    Counted for each text and not "exists": that MariaDB turns into a list of all annotations, made for each request.
    """
    skips = (
        select(func.count())
        .select_from(Annotation)
        .where(
            Annotation.text_id == Text.id,
            Annotation.labeler_id == labeler_id,
            Annotation.kind == "skip",
            retractions.stands(),
        )
        .correlate(Text)
        .scalar_subquery()
    )
    return skips > 0


def _items(
    session: Session, domain_id: int, pairs: Sequence[tuple[Text, Lease | None]], *, reviewing: bool
) -> list[QueueItem]:
    sizes = twin_order.sizes(session, domain_id, {text.group_hash for text, _ in pairs})
    items = [_item(text, lease, sizes.get(text.group_hash, 1)) for text, lease in pairs]
    if not reviewing:
        return items
    found = reviews.of_texts(session, [text for text, _ in pairs])
    return [
        replace(item, strategy=reviews.STRATEGY, reason=found[text.id].reason, review=found[text.id])
        for item, (text, _) in zip(items, pairs, strict=True)
    ]


def _item(text: Text, lease: Lease | None, group_size: int) -> QueueItem:
    return QueueItem(
        question_id=text.question_id or "",
        question=text.text or "",
        count=text.count,
        group_size=group_size,
        intents=text.intents,
        confidence=text.confidence,
        topk=text.topk,
        priority=text.priority or 0.0,
        reason=text.reason,
        strategy=text.strategy,
        sampling_probability=text.sampling_probability,
        lease_token=lease.token if lease else None,
        lease_expires_at=lease.expires_at if lease else None,
    )


def length(session: Session, domain_id: int) -> int:
    """How many texts wait for a person."""
    return session.scalar(select(func.count()).select_from(_waiting(domain_id).subquery())) or 0
