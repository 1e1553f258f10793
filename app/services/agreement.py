"""How far people agree about the texts that several of them answered blind, and where they do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Label, Text
from app.intent import agreement
from app.intent.agreement import Agreement
from app.services import blind_answers, retractions

MOST_ANSWERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Report:
    """Agreement over a domain's last blind answers, about so many texts; by the labels' paths and by labeler."""

    domain: str
    texts: int
    overall: Agreement
    interval: tuple[float, float] | None
    by_label: Mapping[str, Agreement]
    by_labeler: Mapping[str, Agreement]

    def as_json(self) -> dict[str, Any]:
        """The report as it is answered; those who agree least come first."""
        low, high = self.interval or (None, None)
        return {
            "domain": self.domain,
            "texts": self.texts,
            **_figures(self.overall),
            "low": low,
            "high": high,
            "labels": [{"label": path} | _figures(found) for path, found in _worst_first(self.by_label)],
            "labelers": [{"labeler_id": name} | _figures(found) for name, found in _worst_first(self.by_labeler)],
        }


def _figures(found: Agreement) -> dict[str, Any]:
    return {"answers": found.answers, "share": found.share, "alpha": found.alpha}


def _worst_first(found: Mapping[str, Agreement]) -> list[tuple[str, Agreement]]:
    return sorted(found.items(), key=lambda one: (one[1].alpha is None, one[1].alpha or 0.0, one[0]))


def disputed(session: Session, domain_id: int, *, before: int | None, limit: int) -> Sequence[Text]:
    """The texts of a domain whose answers came to no majority, the newest first."""
    statement = select(Text).where(
        Text.domain_id == domain_id, Text.state == "disputed", Text.question_id.is_not(None), Text.text.is_not(None)
    )
    if before is not None:
        statement = statement.where(Text.id < before)
    return session.scalars(statement.order_by(Text.id.desc()).limit(limit)).all()


def answers_about(session: Session, texts: Sequence[Text]) -> dict[int, list[Annotation]]:
    """The blind answers that count about each of these texts, by its id; of each labeler the last."""
    rows = session.scalars(
        select(Annotation)
        .where(Annotation.text_id.in_([text.id for text in texts]), blind_answers.count_now())
        .order_by(Annotation.id)
    )
    last = {(answer.text_id, answer.labeler_id): answer for answer in rows}
    found: dict[int, list[Annotation]] = {text.id: [] for text in texts}
    for (text_id, _), answer in last.items():
        found[text_id].append(answer)
    return found


def of_domain(session: Session, domain: Domain) -> Report:
    """Agreement over the last `MOST_ANSWERS` blind answers. A label that was merged counts as the one it became."""
    paths, became = _labels(session, domain.id)
    last: dict[tuple[int, str], int] = {}
    for text_id, labeler_id, label_id in _last_answers(session, domain.id):
        # The newest come first: an earlier answer of the same labeler was replaced.
        last.setdefault((text_id, labeler_id), became.get(label_id, label_id))
    names = sorted({labeler_id for _, labeler_id in last})
    number = {name: place for place, name in enumerate(names)}
    texts = np.array([text_id for text_id, _ in last], dtype=np.int64)
    labelers = np.array([number[labeler_id] for _, labeler_id in last], dtype=np.int64)
    labels = np.array(list(last.values()), dtype=np.int64)
    by_label = agreement.by_label(texts, labels)
    by_labeler = agreement.by_labeler(texts, labelers, labels)
    return Report(
        domain.name,
        len(set(texts.tolist())),
        agreement.overall(texts, labels),
        agreement.interval(texts, labels, np.random.default_rng(domain.id)),
        {paths[label_id]: found for label_id, found in by_label.items()},
        {names[place]: found for place, found in by_labeler.items()},
    )


def _last_answers(session: Session, domain_id: int) -> Sequence[Any]:
    return session.execute(
        select(Annotation.text_id, Annotation.labeler_id, Annotation.label_id)
        .where(
            Annotation.domain_id == domain_id,
            Annotation.is_blind.is_(True),
            Annotation.kind == "label",
            retractions.stands(),
        )
        .order_by(Annotation.id.desc())
        .limit(MOST_ANSWERS)
    ).all()


def _labels(session: Session, domain_id: int) -> tuple[dict[int, str], dict[int, int]]:
    """The path of every label, and what those that were merged have become in the end."""
    rows = session.execute(select(Label.id, Label.path, Label.merged_into_id).where(Label.domain_id == domain_id)).all()
    into = {label_id: target for label_id, _, target in rows if target is not None}
    became = {}
    for label_id in into:
        seen, end = {label_id}, into[label_id]
        while end in into and end not in seen:
            seen.add(end)
            end = into[end]
        became[label_id] = end
    return {label_id: path for label_id, path, _ in rows}, became
