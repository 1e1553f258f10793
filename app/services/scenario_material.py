"""What new scenarios are looked for in: questions that no label seems to fit, and a sample of the labelled ones."""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import ColumnElement, and_, false, or_, select
from sqlalchemy.orm import Session

from app.db.tables import Domain, Label, Scenario, Text
from app.intent.arrays import IntArray
from app.intent.scenarios import MOST_TEXTS
from app.intent.text import MaskedText
from app.services import members, mining, taxonomy, texts

UNSURE: Final = 0.9
"""Below it a confident answer is looked at too: τ is fitted to known labels, and unknown intents often lie above it.

With ten labels left out of training, half of the unknown questions were found below 0.9 and a fourth below 0.5; the
groups were as pure, for those of known labels are told by their distance.
"""

MOST_LABELLED: Final = 8_000
# Members of what was proposed or dismissed come first, or proposals would come and go with the sample; but new
# questions must have a place beside them.
MOST_KNOWN_MEMBERS: Final = MOST_TEXTS // 2
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Material:
    """Candidates and labelled texts, all of them distinct, masked and not gold.

    Args:
        text_ids, texts, counts: of the candidates; how often each was asked.
        labelled, label_ids: texts with a label that is not 其他, and the label of each.
        user_words: what the cutter of words must know.
    """

    text_ids: Sequence[int]
    texts: Sequence[MaskedText]
    counts: IntArray
    labelled: Sequence[MaskedText]
    label_ids: Sequence[int]
    user_words: Sequence[str]


def material(session: Session, domain: Domain, *, threshold: float) -> Material:
    """Up to 4,000 candidates and up to 8,000 labelled texts, a uniform sample of more.

    A candidate is a text that the version is not sure of (below `threshold`, τ, or below 0.9), or that it or a person
    calls 其他. Of too many the most asked ones of the least confidence are taken. What somebody accepted is no
    candidate any more.
    """
    other = other_label(session, domain.id)
    chosen = _chosen(session, domain, other, max(threshold, UNSURE))
    found = _words(session, chosen)
    labelled = session.execute(
        select(Text.text, Text.label_id)
        .where(members.trainable(domain.id), Text.label_id != (other.id if other else 0))
        # Hashes are uniform: the first ones by them are a random sample.
        .order_by(Text.text_hash)
        .limit(MOST_LABELLED)
    ).all()
    return Material(
        text_ids=list(found),
        texts=[MaskedText(words) for words, _ in found.values()],
        counts=np.array([count for _, count in found.values()], dtype=np.int64),
        labelled=[MaskedText(words or "") for words, _ in labelled],
        label_ids=[label_id or 0 for _, label_id in labelled],
        user_words=mining.user_words(session, domain),
    )


def other_label(session: Session, domain_id: int) -> Label | None:
    """The label of what fits no other, if the domain has it."""
    return session.scalar(select(Label).where(Label.domain_id == domain_id, Label.path == taxonomy.OTHER))


def may_belong(other: Label | None) -> ColumnElement[bool]:
    """Whether a text may be a member of a scenario: it waits for a person, or a person called it 其他."""
    waits = and_(Text.state == "unlabelled", Text.priority.is_not(None))
    called_other = and_(Text.state == "labelled", Text.label_id == (other.id if other else 0))
    return and_(Text.is_gold == false(), Text.text.is_not(None), or_(waits, called_other))


def _chosen(session: Session, domain: Domain, other: Label | None, threshold: float) -> list[int]:
    """The ids of the candidates, read in one stream: only the best ones so far are held."""
    status = _statuses(session, domain.id)
    known: list[tuple[float, int]] = []
    fresh: list[tuple[float, int]] = []
    for text_id, count, state, confidence, intents, scenario_id in _stream(session, domain.id, other):
        unsure = confidence is None or confidence < threshold or intents[:1] == [taxonomy.OTHER]
        if not (unsure or state == "labelled") or status.get(scenario_id) == "accepted":
            continue
        doubt = 1.5 - (confidence or 0.0) if state == "unlabelled" else 1.5
        entry = (doubt * (1.0 + math.log1p(count)), text_id)
        if scenario_id in status:
            _keep_best(known, entry, MOST_KNOWN_MEMBERS)
        else:
            _keep_best(fresh, entry, MOST_TEXTS)
    best = sorted(fresh, reverse=True)[: MOST_TEXTS - len(known)]
    return sorted(text_id for _, text_id in (*known, *best))


def _keep_best(heap: list[tuple[float, int]], entry: tuple[float, int], most: int) -> None:
    if len(heap) < most:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _statuses(session: Session, domain_id: int) -> Mapping[int | None, str]:
    rows = session.execute(select(Scenario.id, Scenario.status).where(Scenario.domain_id == domain_id)).all()
    return {scenario_id: status for scenario_id, status in rows}  # noqa: C416


def _stream(session: Session, domain_id: int, other: Label | None) -> Iterator[Any]:
    columns = select(Text.id, Text.count, Text.state, Text.confidence, Text.intents, Text.scenario_id)
    for window in texts.windows(session, domain_id):
        yield from session.execute(columns.where(window, may_belong(other)))


def _words(session: Session, text_ids: Sequence[int]) -> dict[int, tuple[str, int]]:
    found: dict[int, tuple[str, int]] = {}
    for start in range(0, len(text_ids), _PAGE):
        page = text_ids[start : start + _PAGE]
        rows = session.execute(
            select(Text.id, Text.text, Text.count).where(Text.id.in_(page), Text.text.is_not(None)).order_by(Text.id)
        )
        found.update({text_id: (words or "", count) for text_id, words, count in rows})
    return found
