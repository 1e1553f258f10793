"""The labels of a domain: import them, list them, and find the one that a person named."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label
from app.errors import LevelsInsteadOfLabel, Malformed, TaxonomyEmpty, TooManyLabels, UnknownLabel
from app.intent.taxonomy import SEPARATOR, LabelSpec, TaxonomyInvalid, near_labels, parse_taxonomy, taxonomy_digest
from app.services import rule_sets

# Where questions go that no label fits; it collects proposals and never leaves the taxonomy.
OTHER = "其他"


def replace(session: Session, domain: Domain, specs: Sequence[LabelSpec]) -> Sequence[Label]:
    """Make these the labels of the domain: new ones get an id, known ones keep theirs, missing ones are retired.

    The domain must be locked. A label that returns is the old one again, with its id and its annotations.
    """
    known = {label.path: label for label in _all(session, domain.id)}
    version = domain.taxonomy_version + 1
    wanted = {spec.path for spec in specs}
    for position, spec in enumerate(specs):
        label = known.get(spec.path)
        if label is None:
            label = Label(domain_id=domain.id, path=spec.path, since_version=version)
            session.add(label)
        label.status, label.position, label.guideline = "active", position, spec.guideline
        label.merged_into_id = None
    for path, label in known.items():
        if path not in wanted and path != OTHER:
            label.status = "retired"
    session.flush()
    return changed(session, domain)


def add(
    session: Session, domain: Domain, path: str, *, trains_from: int | None = None, guideline: str | None = None
) -> Label:
    """Add one label, or wake a retired one; an active one stays as it is. The domain must be locked.

    `trains_from`: the texts without which it is not trained, where it is to wait for more than others do.
    """
    label = session.scalar(select(Label).where(Label.domain_id == domain.id, Label.path == path))
    if label is None:
        position = session.scalar(select(func.count(Label.id)).where(Label.domain_id == domain.id)) or 0
        label = Label(domain_id=domain.id, path=path, position=position, since_version=domain.taxonomy_version + 1)
        session.add(label)
    elif label.status == "active":
        return label
    label.status, label.merged_into_id = "active", None
    if trains_from is not None:
        label.trains_from = trains_from
    if guideline is not None:
        label.guideline = guideline
    session.flush()
    changed(session, domain)
    return label


def spec_of(
    session: Session, domain: Domain, path: str, guideline: str | None = None
) -> tuple[LabelSpec, Label | None]:
    """A label that somebody named, as labels are written, and the active one if it is there. The domain must be locked.

    Raises:
        Malformed: it cannot be a label, or not beside those that are there.
        TaxonomyEmpty: there are none beside which it could be.
    """
    try:
        (spec,) = parse_taxonomy([{"path": path, "guideline": guideline}])
    except TaxonomyInvalid as error:
        raise Malformed(f"this cannot be a label: {error}") from error
    known = {label.path: label for label in active(session, domain.id)}
    if not known:
        raise TaxonomyEmpty(f"domain {domain.name!r} has no labels yet: import its taxonomy first")
    for other in known:
        if other.startswith(spec.path + SEPARATOR) or spec.path.startswith(other + SEPARATOR):
            raise Malformed(f"this cannot be a label beside {other!r}: one would lie inside the other")
    return spec, known.get(spec.path)


def summary(session: Session, domain: Domain) -> dict[str, Any]:
    """The taxonomy in a few words, for the audit trail: equal ones have equal digests."""
    count = len(active(session, domain.id))
    return {"version": domain.taxonomy_version, "labels": count, "digest": domain.taxonomy_digest}


def active(session: Session, domain_id: int) -> Sequence[Label]:
    """The labels that may be given today, in the order of the taxonomy."""
    return session.scalars(
        select(Label).where(Label.domain_id == domain_id, Label.status == "active").order_by(Label.position, Label.id)
    ).all()


def to_train(session: Session, domain_id: int, label_ids: Collection[int]) -> Sequence[Label]:
    """The labels that may be given today, and those of these ids that no longer may; the latter stand last."""
    return [
        *active(session, domain_id),
        *(label for label in listing(session, domain_id) if label.status != "active" and label.id in label_ids),
    ]


def listing(session: Session, domain_id: int) -> Sequence[Label]:
    """All labels that ever were, the active ones in the order of the taxonomy."""
    return session.scalars(select(Label).where(Label.domain_id == domain_id).order_by(Label.position, Label.id)).all()


def resolve(session: Session, domain: Domain, intents: Sequence[str]) -> Label:
    """The one label that a person named. It stays one that is given until the transaction ends: who retires it waits.

    Raises:
        TaxonomyEmpty: there is no label to give.
        Malformed: none was named.
        LevelsInsteadOfLabel: the levels of one label were sent as a list.
        TooManyLabels: several labels were sent.
        UnknownLabel: no active label has this path; the details name the nearest.
    """
    if len(intents) == 1:
        found = session.scalar(
            select(Label)
            .where(Label.domain_id == domain.id, Label.path == intents[0], Label.status == "active")
            .with_for_update(read=True)
            .execution_options(populate_existing=True)
        )
        if found is not None:
            return found
    labels = active(session, domain.id)
    paths = [label.path for label in labels]
    if not paths:
        raise TaxonomyEmpty(f"domain {domain.name!r} has no labels yet: import its taxonomy first")
    if not intents:
        raise Malformed(f"domain {domain.name!r} takes one label, none was sent")
    if len(intents) > 1:
        joined = SEPARATOR.join(intents)
        if joined in paths:
            raise LevelsInsteadOfLabel(f"send the label as one string: {joined!r}", label=joined)
        raise TooManyLabels(f"domain {domain.name!r} takes one label, {len(intents)} were sent")
    near = list(dict.fromkeys([*_successors(session, domain.id, labels, intents[0]), *near_labels(intents[0], paths)]))
    raise UnknownLabel(
        f"this label is not in the taxonomy of domain {domain.name!r}; near ones: {', '.join(near) or 'none'}",
        near=near,
    )


def _successors(session: Session, domain_id: int, labels: Sequence[Label], path: str) -> list[str]:
    """What a label that had this path is called today, or was merged into."""
    merged = session.scalar(select(Label.merged_into_id).where(Label.domain_id == domain_id, Label.path == path))
    return [label.path for label in labels if label.id == merged or path in (label.former_paths or ())]


def is_given(session: Session, label_id: int | None) -> bool:
    """Whether this label may be given today."""
    label = session.get(Label, label_id) if label_id is not None else None
    return label is not None and label.status == "active"


def changed(session: Session, domain: Domain) -> Sequence[Label]:
    """The labels of this domain, which is locked, may be others: number the taxonomy anew, and look at the rules."""
    labels = active(session, domain.id)
    digest = taxonomy_digest([label.path for label in labels])
    if digest != domain.taxonomy_digest or domain.taxonomy_version == 0:
        domain.taxonomy_version += 1
        domain.taxonomy_digest = digest
        session.flush()
        if session.scalar(select(KeywordRule.id).where(KeywordRule.domain_id == domain.id).limit(1)) is not None:
            # The rules of a label that left, or came back.
            rule_sets.mark_changed(session, domain)
    return labels


def _all(session: Session, domain_id: int) -> Sequence[Label]:
    return session.scalars(select(Label).where(Label.domain_id == domain_id)).all()
