"""What people answer: label, answer again, skip, discard, hand back; every answer stays, the last one counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Text
from app.errors import AlreadyLabelled, Discarded, Disputed, LeaseLost, NotDisputed, Retired
from app.services import blind_answers, counting, leases, proposals, reviews
from app.services.answers import SKIPS_THAT_RETIRE, domain_of, labelers_of, project, text_for_update
from app.services.answers import apply as apply
from app.services.answers import next_revision as next_revision

PROPOSAL_SIZE = 50


@dataclass(frozen=True, slots=True)
class Submitted:
    """The annotation that was stored, how many questions carry its label, and the state that the text has now.

    Of several people's blind answers it is the labeler's own, whatever they came to.
    """

    annotation_id: int
    question_id: str
    label: str
    supersedes: int | None
    twins: int
    state: str = "labelled"


def submit(
    session: Session,
    question_id: str,
    *,
    correct_intent: Sequence[str],
    labeler_id: str,
    time_intent: dict[str, Any] | None = None,
    proposed_label: str | None = None,
    supersedes: int | None = None,
    lease_token: str | None = None,
    adjudicate: bool = False,
    may_decide_own: bool = False,
    proposal_size: int = PROPOSAL_SIZE,
) -> Submitted:
    """Label the text of a question, and with it all its twins.

    A labeler's second answer replaces their first. Another's answer is replaced only when `supersedes` names the
    annotation that counts now, or the labeler was given the text to review. Where a text is for several people, theirs
    is one of the answers that decide about it; when those are split, `adjudicate` decides, of a labeler who gave none
    of them (or who `may_decide_own`).

    Raises:
        NotFound, NoTexts, Leased, LeaseLost, AlreadyLabelled, Retired, Discarded, Disputed, NotDisputed, and what
        `taxonomy.resolve` raises.
    """
    text = text_for_update(session, question_id)
    domain = domain_of(session, text)
    label, proposed_label = proposals.resolve(session, domain, correct_intent, proposed_label)
    _refuse_if_ended(text, supersedes)
    annotation = Annotation(
        domain_id=domain.id,
        text_id=text.id,
        question_id=question_id,
        labeler_id=labeler_id,
        revision=next_revision(session, text.id, labeler_id),
        kind="label",
        label_id=label.id,
        answer=[label.path],
        time_intent=time_intent,
        proposed_label=proposed_label,
        supersedes_id=text.annotation_id,
    )
    if text.state == "disputed":
        _refuse_to_adjudicate(session, text, labeler_id, adjudicate=adjudicate, own=may_decide_own)
    elif text.state == "unlabelled":
        if adjudicate:
            raise NotDisputed("this question is not disputed: answer it like any other")
        if blind_answers.wanted(domain, text) > 1:
            return _submit_blind(session, text, domain, annotation, supersedes, lease_token, proposal_size)
        if supersedes is not None:
            raise AlreadyLabelled("no annotation counts here that could be superseded", annotation_id=None)
        leases.refuse(session, text, labeler_id, lease_token)
    elif reviews.holds(session, text, labeler_id, lease_token) and supersedes in (None, text.annotation_id):
        reviews.keep(session, text, annotation)
    elif repeated := _refuse_if_not_mine(session, text, annotation, supersedes):
        return _submitted(repeated, text, question_id, twins=text.count)
    twins = apply(session, text, annotation)
    _promote(session, domain, text, proposal_size)
    return _submitted(annotation, text, question_id, twins)


def _submit_blind(
    session: Session,
    text: Text,
    domain: Domain,
    annotation: Annotation,
    supersedes: int | None,
    lease_token: str | None,
    proposal_size: int,
) -> Submitted:
    """Store one of the answers that decide about a text together."""
    labeler_id = annotation.labeler_id
    given = blind_answers.standing(session, text.id)
    mine = given.get(labeler_id)
    if supersedes is not None and (mine is None or supersedes != mine.id):
        # Whether another has answered is not to be seen.
        raise AlreadyLabelled("this is not your answer that counts here", annotation_id=mine.id if mine else None)
    missing = blind_answers.wanted(domain, text) - len(given)
    if mine is None:
        leases.refuse(session, text, labeler_id, lease_token, slots=max(1, missing))
        missing -= 1
    elif _same(mine, annotation):
        # A request that was sent again, its answer being lost.
        return _submitted(mine, text, annotation.question_id, twins=0)
    annotation.is_blind = True
    annotation.supersedes_id = mine.id if mine is not None else None
    counting.judge(annotation, text)
    session.add(annotation)
    leases.end(session, text, labeler_id, slots=max(1, missing))
    session.flush()
    twins = blind_answers.settle(session, text, domain)
    _promote(session, domain, text, proposal_size)
    return _submitted(annotation, text, annotation.question_id, twins)


def _promote(session: Session, domain: Domain, text: Text, proposal_size: int) -> None:
    if text.proposed_label is not None:
        proposals.promote(session, domain, text.proposed_label, proposal_size)


def _submitted(annotation: Annotation, text: Text, question_id: str | None, twins: int) -> Submitted:
    path = str((annotation.answer or [""])[0])
    return Submitted(annotation.id, question_id or "", path, annotation.supersedes_id, twins, state=text.state)


def _same(one: Annotation, other: Annotation) -> bool:
    return (one.label_id, one.proposed_label, one.time_intent) == (
        other.label_id, other.proposed_label, other.time_intent,
    )  # fmt: skip


def skip(
    session: Session,
    question_id: str,
    *,
    labeler_id: str,
    reason: str | None = None,
    lease_token: str | None = None,
) -> Text:
    """Hide the text from this labeler; a second labeler's skip retires it. In a review it hides it, and no more.

    Raises:
        NotFound, NoTexts, Leased, LeaseLost, AlreadyLabelled, Retired, Discarded, Disputed.
    """
    text = text_for_update(session, question_id)
    domain = domain_of(session, text)
    if text.state == "labelled":
        if not reviews.holds(session, text, labeler_id, lease_token):
            raise AlreadyLabelled("this question is labelled already", annotation_id=text.annotation_id)
        _store(session, text, question_id, labeler_id, "skip", reason)
        leases.end(session, text, labeler_id)
        return text
    _refuse_if_ended(text, None)
    if text.state == "disputed":
        raise Disputed("this question has its answers, which differ: it is no longer handed out")
    if blind_answers.wanted(domain, text) > 1 and (mine := blind_answers.standing(session, text.id).get(labeler_id)):
        raise AlreadyLabelled("you answered this: take your answer back first", annotation_id=mine.id)
    try:
        _refuse_if_held(session, text, domain, labeler_id, lease_token)
    except LeaseLost:
        if labeler_id in labelers_of(session, text.id, "skip"):
            # A request that was sent again, its answer being lost.
            return text
        raise
    _store(session, text, question_id, labeler_id, "skip", reason)
    leases.end(session, text, labeler_id)
    session.flush()
    if len(labelers_of(session, text.id, "skip")) >= SKIPS_THAT_RETIRE:
        leases.end_all(session, text)
        text.state, text.training_status, text.priority = "skipped", "skipped", None
        project(session, text)
    return text


def discard(
    session: Session,
    question_id: str,
    *,
    labeler_id: str,
    reason: str | None = None,
    lease_token: str | None = None,
) -> Text:
    """Say that a text is none that could have a label: it is never asked or trained on again.

    Raises:
        NotFound, NoTexts, Leased, LeaseLost, AlreadyLabelled, Retired, Discarded.
    """
    text = text_for_update(session, question_id)
    domain = domain_of(session, text)
    if text.state == "labelled":
        raise AlreadyLabelled("this question is labelled: take the label back first", annotation_id=text.annotation_id)
    if text.state == "discarded" and labeler_id in labelers_of(session, text.id, "discard"):
        return text
    _refuse_if_ended(text, None)
    _refuse_if_held(session, text, domain, labeler_id, lease_token)
    _store(session, text, question_id, labeler_id, "discard", reason)
    leases.end_all(session, text)
    text.state, text.training_status, text.priority = "discarded", "skipped", None
    project(session, text)
    return text


def release(session: Session, question_id: str, *, labeler_id: str, lease_token: str | None = None) -> Text:
    """Hand a text back unanswered. Without a lease nothing happens.

    Raises:
        NotFound: no such question.
        Leased: another labeler holds it.
        LeaseLost: it was leased anew under the same name.
    """
    text = text_for_update(session, question_id)
    if leases.of_text(session, text.id):
        domain = domain_of(session, text)
        _refuse_if_held(session, text, domain, labeler_id, lease_token)
        leases.end(session, text, labeler_id)
        session.flush()
    return text


def _refuse_if_held(session: Session, text: Text, domain: Domain, labeler_id: str, lease_token: str | None) -> None:
    """Refuse a labeler for whom no slot of the text is left.

    Raises:
        Leased, LeaseLost.
    """
    slots = blind_answers.wanted(domain, text)
    if slots > 1:
        slots = max(1, slots - len(blind_answers.standing(session, text.id)))
    leases.refuse(session, text, labeler_id, lease_token, slots=slots)


def _store(
    session: Session, text: Text, question_id: str, labeler_id: str, kind: str, reason: str | None
) -> Annotation:
    annotation = Annotation(
        domain_id=text.domain_id,
        text_id=text.id,
        question_id=question_id,
        labeler_id=labeler_id,
        revision=next_revision(session, text.id, labeler_id),
        kind=kind,
        reason=reason,
    )
    session.add(annotation)
    return annotation


def _refuse_if_ended(text: Text, supersedes: int | None) -> None:
    if text.state == "discarded":
        raise Discarded("a labeler discarded this question: it is no longer asked")
    if text.state == "skipped":
        if supersedes is not None:
            raise AlreadyLabelled("no annotation counts here that could be superseded", annotation_id=None)
        raise Retired("two labelers skipped this question: it is no longer asked")


def _refuse_to_adjudicate(session: Session, text: Text, labeler_id: str, *, adjudicate: bool, own: bool) -> None:
    if not adjudicate:
        raise Disputed("the answers about this question differ: decide with `adjudicate`")
    if not own and labeler_id in blind_answers.standing(session, text.id):
        raise Disputed("one of the answers that differ is this labeler's: another person decides")


def _refuse_if_not_mine(
    session: Session, text: Text, annotation: Annotation, supersedes: int | None
) -> Annotation | None:
    """Refuse to replace what others have decided; gives the labeler's own part in it, sent once more."""
    current = session.get(Annotation, text.annotation_id)
    if supersedes is not None:
        if supersedes != text.annotation_id:
            raise AlreadyLabelled("another annotation counts by now", annotation_id=text.annotation_id)
        return None
    if current is not None and current.is_blind:
        # It stands for what several people said: a second thought of one of them is not enough.
        mine = blind_answers.standing(session, text.id).get(annotation.labeler_id)
        if mine is not None and _same(mine, annotation):
            return mine
        raise AlreadyLabelled("the answers of several people have decided this", annotation_id=text.annotation_id)
    if current is None or current.labeler_id != annotation.labeler_id:
        raise AlreadyLabelled("another labeler has answered this", annotation_id=text.annotation_id)
    return None
