"""Labels that people miss: what a proposal is stored as, and when it has become a label."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Label, Text
from app.errors import Malformed
from app.services import answers, domains, taxonomy


def resolve(
    session: Session, domain: Domain, correct_intent: Sequence[str], proposed_label: str | None
) -> tuple[Label, str | None]:
    """The label to store, and the proposal that goes with it, written as a label is."""
    if proposed_label is None:
        return taxonomy.resolve(session, domain, correct_intent), None
    if list(correct_intent) not in ([], [taxonomy.OTHER]):
        raise Malformed(f"a proposed label is given with correct_intent [{taxonomy.OTHER!r}]")
    # Locked, so that of two who bring the last proposals one sees the other's.
    domain = domains.locked(session, domain.name)
    spec, known = taxonomy.spec_of(session, domain, proposed_label)
    if known is not None:
        # Enough others proposed it meanwhile: it is a label by now.
        return known, None
    return taxonomy.add(session, domain, taxonomy.OTHER), spec.path


def promote(session: Session, domain: Domain, proposed: str, size: int) -> None:
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
            labeler_id=answers.SYSTEM,
            revision=answers.next_revision(session, text.id, answers.SYSTEM),
            kind="label",
            label_id=label.id,
            answer=[label.path],
            supersedes_id=text.annotation_id,
            source="system",
            reason=f"{len(carriers)} texts carried this proposal",
        )
        answers.apply(session, text, annotation)
