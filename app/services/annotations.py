"""What people answer: label, answer again, skip, hand back, undo; every answer stays, the last one counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, aliased

from app.db.session import database_time
from app.db.tables import Annotation, Domain, Label, Lease, Text
from app.errors import (
    AlreadyLabelled,
    Leased,
    LeaseLost,
    Malformed,
    NoTexts,
    NothingToUndo,
    Retired,
    TaxonomyEmpty,
)
from app.intent.taxonomy import SEPARATOR, TaxonomyInvalid, parse_taxonomy
from app.services import counting, domains, folding, intake, rule_usage, taxonomy, texts

# Beyond so many twins one statement would hold the labeler up: the clock brings them the label.
MOST_TWINS = 1000
SKIPS_THAT_RETIRE = 2
PROPOSAL_SIZE = 50


@dataclass(frozen=True, slots=True)
class Submitted:
    """The annotation that now counts, and how many questions carry it."""

    annotation_id: int
    question_id: str
    label: str
    supersedes: int | None
    twins: int


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
    proposal_size: int = PROPOSAL_SIZE,
) -> Submitted:
    """Label the text of a question, and with it all its twins.

    A labeler's second answer replaces their first. Another's answer is replaced only when `supersedes` names the
    annotation that counts now.

    Raises:
        NotFound, NoTexts, Leased, LeaseLost, AlreadyLabelled, and what `taxonomy.resolve` raises.
    """
    text = _text_for_update(session, question_id)
    domain = _domain(session, text)
    label, proposed_label = _resolve(session, domain, correct_intent, proposed_label)
    _refuse_if_not_mine(session, text, labeler_id, supersedes, lease_token)
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
    twins = apply(session, text, annotation)
    if proposed_label is not None:
        _promote(session, domain, proposed_label, proposal_size)
    return Submitted(annotation.id, question_id, label.path, annotation.supersedes_id, twins)


def apply(session: Session, text: Text, annotation: Annotation) -> int:
    """Make this annotation the text's label, and return how many questions carry it."""
    if annotation.id is None:
        counting.judge(annotation, text)
        session.add(annotation)
        session.flush()
    counting.judged(session, text, annotation)
    before = rule_usage.label_of(text)
    changed = text.label_id != annotation.label_id or text.proposed_label != annotation.proposed_label
    text.state = "labelled"
    text.label_id = annotation.label_id
    text.annotation_id = annotation.id
    text.proposed_label = annotation.proposed_label
    text.labelled_at = annotation.created_at
    text.label_source = annotation.source
    text.priority = None
    if text.is_gold:
        text.training_status = "skipped"
    elif changed:
        # A batch that holds the old label keeps it, frozen; the new one waits for the next batch.
        text.training_status, text.claimed_by = "pending", None
    _end_lease(session, text)
    rule_usage.judge(session, text, before=before)
    return _project(session, text)


def undo(session: Session, question_id: str, *, labeler_id: str) -> Text:
    """Take back this labeler's last answer or skip: what counted before it counts again.

    Raises:
        NotFound: no such question.
        NothingToUndo: the labeler has no answer here, or another's replaced it since.
    """
    text = _text_for_update(session, question_id)
    last = _last_standing(session, text.id, labeler_id)
    if last is None:
        raise NothingToUndo("this labeler has no answer about this question to take back")
    if last.kind == "label" and text.annotation_id != last.id:
        raise NothingToUndo("another answer has replaced this labeler's", annotation_id=text.annotation_id)
    retraction = Annotation(
        domain_id=text.domain_id,
        text_id=text.id,
        question_id=question_id,
        labeler_id=labeler_id,
        revision=next_revision(session, text.id, labeler_id),
        kind="retract",
        supersedes_id=last.id,
    )
    session.add(retraction)
    session.flush()
    if last.kind == "label":
        before = _standing_before(session, last)
        if before is None:
            _clear(session, text)
        else:
            apply(session, text, before)
    elif text.state == "skipped" and len(_skippers(session, text.id)) < SKIPS_THAT_RETIRE:
        text.state, text.training_status = "unlabelled", "pending"
        _requeue(text)
        _project(session, text)
    return text


def skip(
    session: Session,
    question_id: str,
    *,
    labeler_id: str,
    reason: str | None = None,
    lease_token: str | None = None,
) -> Text:
    """Hide the text from this labeler; a second labeler's skip retires it.

    Raises:
        NotFound, NoTexts, Leased, AlreadyLabelled, Retired.
    """
    text = _text_for_update(session, question_id)
    _domain(session, text)
    if text.state == "labelled":
        raise AlreadyLabelled("this question is labelled already", annotation_id=text.annotation_id)
    if text.state == "skipped":
        raise Retired("two labelers skipped this question already")
    _refuse_if_leased(session, text, labeler_id, lease_token)
    session.add(
        Annotation(
            domain_id=text.domain_id,
            text_id=text.id,
            question_id=question_id,
            labeler_id=labeler_id,
            revision=next_revision(session, text.id, labeler_id),
            kind="skip",
            reason=reason,
        )
    )
    _end_lease(session, text)
    session.flush()
    if len(_skippers(session, text.id)) >= SKIPS_THAT_RETIRE:
        text.state, text.training_status, text.priority = "skipped", "skipped", None
        _project(session, text)
    return text


def release(session: Session, question_id: str, *, labeler_id: str, lease_token: str | None = None) -> Text:
    """Hand a text back unanswered. Without a lease nothing happens.

    Raises:
        NotFound: no such question.
        Leased: another labeler holds it.
    """
    text = _text_for_update(session, question_id)
    _refuse_if_leased(session, text, labeler_id, lease_token)
    _end_lease(session, text)
    session.flush()
    return text


def _text_for_update(session: Session, question_id: str) -> Text:
    question = intake.find(session, question_id)
    while question.text_id is None:
        # Logged a moment ago and not folded yet: the labeler need not wait for the clock.
        if folding.fold(session) == 0:
            # Another process is folding it; its lock ends with its transaction.
            session.refresh(question, with_for_update=True)
        else:
            session.refresh(question)
    text = session.get(Text, question.text_id, with_for_update={"key_share": True}, populate_existing=True)
    if text is None:
        raise AssertionError(f"question {question_id} has lost its text")
    return text


def _domain(session: Session, text: Text) -> Domain:
    domain = session.get(Domain, text.domain_id)
    if domain is None:
        raise AssertionError(f"text {text.id} has lost its domain")
    if not domain.keep_text and text.text is None:
        raise NoTexts(f"domain {domain.name!r} keeps no text, so there is nothing to label")
    return domain


def _resolve(
    session: Session, domain: Domain, correct_intent: Sequence[str], proposed_label: str | None
) -> tuple[Label, str | None]:
    """The label to store, and the proposal that goes with it, written as a label is."""
    if proposed_label is None:
        return taxonomy.resolve(session, domain, correct_intent), None
    if list(correct_intent) not in ([], [taxonomy.OTHER]):
        raise Malformed(f"a proposed label is given with correct_intent [{taxonomy.OTHER!r}]")
    try:
        (spec,) = parse_taxonomy([proposed_label])
    except TaxonomyInvalid as error:
        raise Malformed(f"the proposed label cannot be a label: {error}") from error
    # Locked, so that of two who bring the last proposals one sees the other's.
    domain = domains.locked(session, domain.name)
    known = {label.path: label for label in taxonomy.active(session, domain.id)}
    if not known:
        raise TaxonomyEmpty(f"domain {domain.name!r} has no labels yet: import its taxonomy first")
    if spec.path in known:
        # Enough others proposed it meanwhile: it is a label by now.
        return known[spec.path], None
    for path in known:
        if path.startswith(spec.path + SEPARATOR) or spec.path.startswith(path + SEPARATOR):
            raise Malformed(f"the proposed label cannot be a label beside {path!r}: one would lie inside the other")
    return taxonomy.add(session, domain, taxonomy.OTHER), spec.path


def _promote(session: Session, domain: Domain, proposed: str, size: int) -> None:
    """Make a proposal a label once enough distinct texts carry it, and give it to them."""
    carrying = (Text.domain_id == domain.id) & (Text.proposed_label == proposed) & (Text.state == "labelled")
    ids = session.scalars(select(Text.id).where(carrying)).all()
    if len(ids) < size:
        return
    carriers = session.scalars(
        select(Text).where(carrying, Text.id.in_(ids)).order_by(Text.id).with_for_update(key_share=True)
    ).all()
    label = taxonomy.add(session, domains.locked(session, domain.name), proposed)
    for text in carriers:
        annotation = Annotation(
            domain_id=domain.id,
            text_id=text.id,
            question_id=text.question_id,
            labeler_id="intentloop",
            revision=next_revision(session, text.id, "intentloop"),
            kind="label",
            label_id=label.id,
            answer=[label.path],
            supersedes_id=text.annotation_id,
            source="system",
            reason=f"{len(carriers)} texts carried this proposal",
        )
        apply(session, text, annotation)


def _refuse_if_not_mine(
    session: Session, text: Text, labeler_id: str, supersedes: int | None, lease_token: str | None
) -> None:
    if text.state == "skipped" and supersedes is None:
        raise Retired("two labelers skipped this question: it is no longer asked")
    if text.annotation_id is not None:
        current = session.get(Annotation, text.annotation_id)
        mine = current is not None and current.labeler_id == labeler_id
        if supersedes is not None and supersedes != text.annotation_id:
            raise AlreadyLabelled("another annotation counts by now", annotation_id=text.annotation_id)
        if not mine and supersedes is None:
            raise AlreadyLabelled("another labeler has answered this", annotation_id=text.annotation_id)
        return
    if supersedes is not None:
        raise AlreadyLabelled("no annotation counts here that could be superseded", annotation_id=None)
    _refuse_if_leased(session, text, labeler_id, lease_token)


def _refuse_if_leased(session: Session, text: Text, labeler_id: str, lease_token: str | None) -> None:
    lease = session.scalar(select(Lease).where(Lease.text_id == text.id))
    if lease is None or lease.expires_at <= database_time(session):
        return
    if lease.labeler_id != labeler_id:
        until = lease.expires_at.isoformat().replace("+00:00", "Z")
        raise Leased("another labeler holds this question", lease_expires_at=until)
    # Two people under one name: the one whose lease ran out must not answer over the other's shoulder.
    if lease_token is not None and lease_token != lease.token:
        raise LeaseLost("this lease ended, and the question was leased anew under the same labeler_id")


def _end_lease(session: Session, text: Text) -> None:
    # Without it there is no lease, and an import of thousands need not look for one each time.
    if text.leased_until is not None:
        session.execute(delete(Lease).where(Lease.text_id == text.id))
        text.leased_until = None


def _clear(session: Session, text: Text) -> None:
    before = rule_usage.label_of(text)
    counting.judged(session, text, None)
    text.state, text.label_id, text.annotation_id = "unlabelled", None, None
    text.labelled_at = text.label_source = text.proposed_label = None
    text.training_status, text.claimed_by = "pending", None
    _requeue(text)
    rule_usage.judge(session, text, before=before)
    _project(session, text)


def _requeue(text: Text) -> None:
    if not texts.may_be_asked(text.state, text.text is not None, text.train_allowed):
        text.priority = None
        return
    if text.is_gold:
        # It was drawn once, uniformly; taking an answer back does not change that.
        text.priority = 0.5 if text.strategy == "gold" else None
        return
    fresh = texts.fresh_priority(text.text_hash, max(text.count, 1), text.topk)
    text.priority, text.strategy, text.reason = fresh.value, fresh.strategy, fresh.reason


def _project(session: Session, text: Text) -> int:
    session.flush()
    if text.count == 0:
        return 0
    if text.count > MOST_TWINS:
        text.projection_due = True
        session.flush()
        return 0
    return texts.project(session, text)


def next_revision(session: Session, text_id: int, labeler_id: str) -> int:
    """The number that this labeler's next answer about this text gets."""
    last = session.scalar(
        select(func.max(Annotation.revision)).where(Annotation.text_id == text_id, Annotation.labeler_id == labeler_id)
    )
    return (last or 0) + 1


def _last_standing(session: Session, text_id: int, labeler_id: str) -> Annotation | None:
    retraction = aliased(Annotation)
    return session.scalar(
        select(Annotation)
        .where(
            Annotation.text_id == text_id,
            Annotation.labeler_id == labeler_id,
            Annotation.kind.in_(["label", "skip"]),
            ~_retracted(retraction),
        )
        .order_by(Annotation.revision.desc())
        .limit(1)
    )


def _standing_before(session: Session, annotation: Annotation) -> Annotation | None:
    """What counted before this annotation and was not taken back."""
    earlier_id = annotation.supersedes_id
    while earlier_id is not None:
        earlier = session.get(Annotation, earlier_id)
        if earlier is None:
            return None
        taken_back = session.scalar(
            select(Annotation.id).where(Annotation.supersedes_id == earlier.id, Annotation.kind == "retract")
        )
        if taken_back is None:
            return earlier
        earlier_id = earlier.supersedes_id
    return None


def _retracted(retraction: Any) -> Any:
    return select(retraction.id).where(retraction.supersedes_id == Annotation.id, retraction.kind == "retract").exists()


def _skippers(session: Session, text_id: int) -> Sequence[str]:
    retraction = aliased(Annotation)
    return session.scalars(
        select(Annotation.labeler_id)
        .where(Annotation.text_id == text_id, Annotation.kind == "skip", ~_retracted(retraction))
        .distinct()
    ).all()
