"""Put the texts that a mix of strategies chose on top of the queue: whether that is due, among which, and their places.

What is chosen follows from embeddings, for which nobody holds a lock: `plan` reads what a choice is made of,
`waiting_page` and `known_page` the words, and `place` writes what was chosen.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Domain, Label, ModelVersion, Text
from app.intent.selection import gold_share
from app.intent.selection_mix import DEFAULT_MIX
from app.services import counters, counting, queue, twin_order
from app.services.texts import OF_PEOPLE, SELECTED, TWIN, fresh_priority

MOST_KNOWN: Final = 5_000
"""Labelled texts that candidates are compared with: all of them, or as many of each label."""

HIGHEST_SHARE: Final = 0.75
"""Of the candidates, in a queue that holds more: those of the highest priority. The others are a random part."""

MOST_CONFUSIONS: Final = 20
LEAST_CONFUSED: Final = 2
GROWN: Final = 1.1
STALE_AFTER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be chosen in a domain.

    Args:
        epoch: of the domain when it was planned: a flip meanwhile makes what was chosen worthless.
        room: how many texts, beside the uniform draw of gold.
        candidates: ids of texts that wait, are not gold, and that nobody holds, with the probability with which each
            became a candidate: 1 unless the queue is longer than a selection looks at.
        known: ids of labelled texts that are not gold, with the ids of their labels.
        confusions: pairs of labels, by id, that are mistaken for each other.
        seen: what the choice is made from; kept to tell when there is nothing new to choose.
    """

    domain_id: int
    epoch: int
    room: int
    mix: Mapping[str, float]
    candidates: Mapping[int, float]
    known: Sequence[tuple[int, int]]
    confusions: Sequence[tuple[int, int]]
    seen: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Words:
    """A text that a choice is made of."""

    text_id: int
    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Selected:
    """A text that was chosen, and what is told about it. The order of a list of them is that in which they are asked.

    Args:
        probability: of its draw; 1 where the choice was not random.
    """

    text_id: int
    strategy: str
    reason: str
    probability: float


def plan(session: Session, domain: Domain, *, size: int, most: int) -> Plan | None:
    """What a selection of `size` texts is to be chosen from, at most so many candidates; None while none is due.

    One is due when another version or rule set serves, the mix is another, half of the last selection is gone, the
    queue has grown by a tenth, or an hour has passed in which it changed.
    """
    figures = counters.totals_of(
        session, [domain.id], [counting.TEXT, counting.QUEUED, counting.TEXT_LABEL]
    ).get(domain.id, {})  # fmt: skip
    waiting = figures.get(counting.QUEUED, {}).get("", 0)
    seen = {
        "epoch": domain.epoch,
        "mix": domain.selection_mix,
        "pairs": domain.confusion_pairs,
        "size": size,
        "waiting": waiting,
    }
    if not _is_due(session, domain, seen):
        return None
    texts = figures.get(counting.TEXT, {})
    gold = round(gold_share(texts.get("labelled" + counting.GOLD, 0)) * size)
    return Plan(
        domain_id=domain.id,
        epoch=domain.epoch,
        room=size - min(gold, texts.get("unlabelled" + counting.GOLD, 0)),
        mix=domain.selection_mix or DEFAULT_MIX,
        candidates=_candidates(session, domain.id, most, waiting),
        known=_known(session, domain.id, figures.get(counting.TEXT_LABEL, {})),
        confusions=_confusions(session, domain),
        seen=seen,
    )


def _is_due(session: Session, domain: Domain, seen: Mapping[str, Any]) -> bool:
    last = domain.last_selection
    if last is None or any(last["seen"][name] != seen[name] for name in ("epoch", "mix", "pairs", "size")):
        return True
    before = last["seen"]["waiting"]
    left = session.scalar(select(func.count()).select_from(Text).where(_selected(domain.id))) or 0
    if seen["waiting"] <= left:
        return False
    if left <= last["count"] / 2 or seen["waiting"] > GROWN * before + 1:
        return True
    since = datetime.fromisoformat(last["selected_at"])
    return bool(seen["waiting"] != before and database_time(session) - since >= STALE_AFTER)


def _waiting(domain_id: int) -> ColumnElement[bool]:
    """In the queue, and neither by the uniform draw nor by what people did, whose texts are all asked.

    Compared, not "IS false", for the indexes of MariaDB.
    """
    return (
        (Text.domain_id == domain_id)
        & (Text.state == "unlabelled")
        & (Text.priority >= 0.0)
        & (Text.is_gold == False)  # noqa: E712
        & Text.text.is_not(None)
        & or_(Text.strategy.is_(None), Text.strategy.not_in(OF_PEOPLE))
    )


def _selected(domain_id: int) -> ColumnElement[bool]:
    return _waiting(domain_id) & (Text.priority > SELECTED)


def _candidates(session: Session, domain_id: int, most: int, waiting: int) -> dict[int, float]:
    """All that wait, or those of the highest priority and a random part."""
    moment = database_time(session)
    free = select(Text).where(
        _waiting(domain_id),
        or_(Text.leased_until.is_(None), Text.leased_until <= moment),
        # A near twin of each is asked first.
        or_(Text.strategy.is_(None), Text.strategy != TWIN),
    )
    highest = round(HIGHEST_SHARE * most)
    found = dict.fromkeys(_ids(session, queue.STRATEGIES["priority"](free), highest), 1.0)
    if len(found) == highest:
        share = min(1.0, (most - highest) / max(1, waiting))
        found = dict.fromkeys(_ids(session, queue.STRATEGIES["random"](free), most - highest), share) | found
    return dict(sorted(found.items()))


def _ids(session: Session, stretches: queue.Stretches, most: int) -> Iterator[int]:
    for stretch in stretches:
        ids = session.scalars(stretch.with_only_columns(Text.id).limit(most)).all()
        most -= len(ids)
        yield from ids
        if most <= 0:
            return


def _known(session: Session, domain_id: int, per_label: Mapping[str, int]) -> list[tuple[int, int]]:
    """Labelled texts; of more than `MOST_KNOWN` as many of each label, drawn by their hash.

    Never gold: what it says of a label is not to steer what is trained.
    """
    labelled = (
        (Text.domain_id == domain_id)
        & (Text.state == "labelled")
        & (Text.is_gold == False)  # noqa: E712
        & Text.text.is_not(None)
        & Text.proposed_label.is_(None)
    )
    labels = [count for count in per_label.values() if count > 0]
    if sum(labels) <= MOST_KNOWN:
        rows = session.execute(select(Text.id, Text.label_id).where(labelled).order_by(Text.id)).all()
    else:
        place = func.row_number().over(partition_by=Text.label_id, order_by=Text.text_hash).label("place")
        ranked = select(Text.id, Text.label_id, place).where(labelled).subquery()
        each = max(1, MOST_KNOWN // len(labels))
        rows = session.execute(
            select(ranked.c.id, ranked.c.label_id).where(ranked.c.place <= each).order_by(ranked.c.id)
        ).all()
    return [(text_id, label_id) for text_id, label_id in rows if label_id is not None]


def _confusions(session: Session, domain: Domain) -> list[tuple[int, int]]:
    """The domain's own pairs first, then those that the active version confuses on gold, the most frequent first."""
    named = [(pair[0], pair[1]) for pair in domain.confusion_pairs or ()]
    version = session.get(ModelVersion, domain.active_version_id or 0)
    gold = (version.evaluation.get("gold") or {}) if version is not None else {}
    counted: Counter[tuple[str, str]] = Counter()
    for true, given, times in gold.get("confusions", ()):
        if true is not None and given is not None:
            counted[min(true, given), max(true, given)] += times
    named += [pair for pair, times in counted.most_common(MOST_CONFUSIONS) if times >= LEAST_CONFUSED]
    rows = session.execute(
        select(Label.path, Label.id).where(Label.domain_id == domain.id, Label.status == "active")
    ).all()
    ids = {path: label_id for path, label_id in rows}  # noqa: C416
    # A label may have left since the pair was named.
    pairs = [(ids[one], ids[other]) for one, other in named if one in ids and other in ids]
    return list(dict.fromkeys((min(pair), max(pair)) for pair in pairs))


def waiting_page(session: Session, domain_id: int, text_ids: Sequence[int]) -> list[Words]:
    """Those of these texts that still wait, with their words, and how often they and their near twins are asked."""
    rows = session.execute(
        select(Text.id, Text.text, Text.count, Text.group_hash)
        .where(Text.id.in_(text_ids), _waiting(domain_id))
        .order_by(Text.id)
    ).all()
    together = twin_order.asked_together(session, domain_id, {row.group_hash for row in rows})
    return [Words(row.id, row.text or "", together.get(row.group_hash, row[2])) for row in rows]


def known_page(session: Session, text_ids: Sequence[int]) -> list[Words]:
    """Those of these texts that still have words."""
    rows = session.execute(
        select(Text.id, Text.text, Text.count).where(Text.id.in_(text_ids), Text.text.is_not(None)).order_by(Text.id)
    )
    return [Words(text_id, words or "", count) for text_id, words, count in rows]


def place(
    session: Session, domain: Domain, made: Plan, chosen: Sequence[Selected], *, version: str | None
) -> int | None:
    """Put what was chosen on top of the queue, and take down what was selected before; how many were put there.

    What was answered meanwhile is passed over, and what a labeler holds keeps its place. The domain must be locked.
    None, and nothing is changed, where it has been flipped since the plan: the next selection begins anew.
    """
    if domain.epoch != made.epoch:
        return None
    wanted = {one.text_id: one for one in chosen}
    earlier = session.scalars(select(Text.id).where(_selected(domain.id))).all()
    moment = database_time(session)
    # Locked together in the order of their ids, so that whoever else locks several never waits in a ring.
    there = session.execute(
        select(Text.id, Text.text_hash, Text.count, Text.topk, Text.leased_until)
        .where(Text.id.in_({*wanted, *earlier}), _waiting(domain.id))
        .order_by(Text.id)
        .with_for_update(key_share=True)
    ).all()
    ids = {row[0] for row in there}
    placed = [one for one in chosen if one.text_id in ids]
    rows = [
        {
            "id": one.text_id,
            "priority": 2.0 - number / len(placed),
            "strategy": one.strategy,
            "reason": one.reason,
            "sampling_probability": one.probability,
        }
        for number, one in enumerate(placed)
    ]
    for text_id, text_hash, count, topk, leased_until in there:
        if text_id not in wanted and (leased_until is None or leased_until <= moment):
            fresh = fresh_priority(text_hash, count, topk)
            fallen = {"priority": fresh.value, "strategy": fresh.strategy, "reason": fresh.reason}
            rows.append({"id": text_id, **fallen, "sampling_probability": None})
    if rows:
        session.execute(update(Text), rows)
    domain.last_selection = {
        "selected_at": moment.isoformat(),
        "version": version,
        "count": len(placed),
        "by_strategy": _tally(one.strategy for one in placed),
        "seen": dict(made.seen),
    }
    session.flush()
    return len(placed)


def _tally(strategies: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(strategies).items()))
