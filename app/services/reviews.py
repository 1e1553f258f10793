"""Reviews: labels that look wrong go to a person once more, who changes or confirms them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Annotation, Label, Text
from app.services import leases

STRATEGY: Final = "review"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A labelled text that is near to the one in doubt."""

    question: str
    label: str


@dataclass(frozen=True, slots=True)
class Review:
    """Why a label is in doubt.

    Args:
        label: the one that the text has.
        suspicion: in [0, 1].
        answer, confidence: the label that is likelier, and what the model of `model_version` gives to it; None where
            its training has not said.
        neighbours: the nearest labelled texts that are still there, best first, with the labels that they have now.
        reason: the same in a sentence.
    """

    label: str
    suspicion: float
    answer: str | None
    confidence: float | None
    model_version: str | None
    neighbours: Sequence[Neighbour]
    reason: str


def waiting(domain_id: int) -> Select[Text]:
    """The labelled texts whose labels wait for a review."""
    # Compared, not "IS NOT NULL": a range of the index.
    return select(Text).where(Text.domain_id == domain_id, Text.suspicion >= 0.0, Text.state == "labelled")


def by_suspicion(statement: Select[Text]) -> Sequence[Select[Text]]:
    """The most suspect first."""
    return [statement.order_by(Text.suspicion.desc(), Text.id.desc())]


def of_texts(session: Session, texts: Iterable[Text]) -> dict[int, Review]:
    """What is to be shown of each of these texts, by its id."""
    doubted = [(text, text.suspicion_evidence or {}) for text in texts]
    near = {text_id for _, evidence in doubted for text_id in evidence.get("neighbours", ())}
    neighbours = {
        text_id: (words, label_id)
        for text_id, words, label_id in session.execute(
            select(Text.id, Text.text, Text.label_id).where(
                Text.id.in_(near), Text.state == "labelled", Text.text.is_not(None)
            )
        )
    }
    wanted = {text.label_id for text, _ in doubted} | {evidence.get("answer") for _, evidence in doubted}
    wanted |= {label_id for _, label_id in neighbours.values()}
    labels = session.scalars(select(Label).where(Label.id.in_(wanted - {None})))
    paths: dict[int | None, str] = {label.id: label.path for label in labels}
    found = {}
    for text, evidence in doubted:
        beside = [
            Neighbour(neighbours[text_id][0] or "", paths.get(neighbours[text_id][1], ""))
            for text_id in evidence.get("neighbours", ())
            if text_id in neighbours
        ]
        given, answer = paths.get(text.label_id, ""), paths.get(evidence.get("answer"))
        found[text.id] = Review(
            label=given,
            suspicion=text.suspicion or 0.0,
            answer=answer,
            confidence=evidence.get("confidence"),
            model_version=evidence.get("version"),
            neighbours=beside,
            reason=_in_words(given, answer, evidence.get("confidence"), beside),
        )
    return found


def _in_words(label: str, answer: str | None, confidence: float | None, neighbours: Sequence[Neighbour]) -> str:
    sentence = f"labelled {label}"
    if answer is not None and confidence is not None:
        sentence += f"; a model that had not seen it says {answer} ({confidence:.2f})"
    if neighbours:
        agreeing = sum(neighbour.label == answer for neighbour in neighbours)
        sentence += f", and so do {agreeing} of its {len(neighbours)} nearest labelled questions"
    return sentence


def holds(session: Session, text: Text, labeler_id: str, lease_token: str | None) -> bool:
    """Whether this labeler was given the locked text to review: then they may replace whatever label it has.

    Raises:
        Leased: another reviews it.
        LeaseLost: the token is not that of the lease.
    """
    if text.state != "labelled" or text.leased_until is None:
        return False
    leases.refuse(session, text, labeler_id, lease_token)
    mine = [lease for lease in leases.of_text(session, text.id) if lease.labeler_id == labeler_id]
    moment = database_time(session)
    # Refused above is a token that is not its own: one that ran out still counts while nobody else was given the text.
    return any(lease_token is not None or lease.expires_at > moment for lease in mine)


def keep(session: Session, text: Text, annotation: Annotation) -> None:
    """Store the answer of a review, before it becomes the label: what it does not say, the label before it said.

    Which version had answered is kept from the label before: only texts that a version got wrong, or seemed to, are
    reviewed, and would no longer speak for all that it answers.
    """
    former = session.get(Annotation, text.annotation_id)
    if former is not None:
        same = former.label_id == annotation.label_id
        if same and annotation.time_intent is None:
            annotation.time_intent = former.time_intent
        # Where the answer was another than the former label, which one it was is not known any more.
        if former.answered_by is not None and (same or former.agreed):
            annotation.answered_by, annotation.agreed = former.answered_by, bool(former.agreed) and same
    session.add(annotation)
    session.flush()
