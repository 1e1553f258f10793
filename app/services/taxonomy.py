"""The labels of a domain: import them, list them, and find the one that a person named."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label
from app.errors import LevelsInsteadOfLabel, Malformed, TaxonomyEmpty, TooManyLabels, UnknownLabel
from app.intent.taxonomy import SEPARATOR, LabelSpec, near_labels, taxonomy_digest
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
    for path, label in known.items():
        if path not in wanted and path != OTHER:
            label.status = "retired"
    session.flush()
    return _changed(session, domain, version)


def add(session: Session, domain: Domain, path: str) -> Label:
    """Add one label, or wake a retired one. The domain must be locked."""
    label = session.scalar(select(Label).where(Label.domain_id == domain.id, Label.path == path))
    if label is None:
        position = session.scalar(select(func.count(Label.id)).where(Label.domain_id == domain.id)) or 0
        label = Label(domain_id=domain.id, path=path, position=position, since_version=domain.taxonomy_version + 1)
        session.add(label)
    elif label.status == "active":
        return label
    label.status = "active"
    session.flush()
    _changed(session, domain, domain.taxonomy_version + 1)
    return label


def summary(session: Session, domain: Domain) -> dict[str, Any]:
    """The taxonomy in a few words, for the audit trail: equal ones have equal digests."""
    count = len(active(session, domain.id))
    return {"version": domain.taxonomy_version, "labels": count, "digest": domain.taxonomy_digest}


def active(session: Session, domain_id: int) -> Sequence[Label]:
    """The labels that may be given today, in the order of the taxonomy."""
    return session.scalars(
        select(Label).where(Label.domain_id == domain_id, Label.status == "active").order_by(Label.position, Label.id)
    ).all()


def listing(session: Session, domain_id: int) -> Sequence[Label]:
    """All labels that ever were, the active ones in the order of the taxonomy."""
    return session.scalars(select(Label).where(Label.domain_id == domain_id).order_by(Label.position, Label.id)).all()


def resolve(session: Session, domain: Domain, intents: Sequence[str]) -> Label:
    """The one label that a person named.

    Raises:
        TaxonomyEmpty: there is no label to give.
        Malformed: none was named.
        LevelsInsteadOfLabel: the levels of one label were sent as a list.
        TooManyLabels: several labels were sent.
        UnknownLabel: no active label has this path; the details name the nearest.
    """
    if len(intents) == 1:
        found = session.scalar(
            select(Label).where(Label.domain_id == domain.id, Label.path == intents[0], Label.status == "active")
        )
        if found is not None:
            return found
    paths = [label.path for label in active(session, domain.id)]
    if not paths:
        raise TaxonomyEmpty(f"domain {domain.name!r} has no labels yet: import its taxonomy first")
    if not intents:
        raise Malformed(f"domain {domain.name!r} takes one label, none was sent")
    if len(intents) > 1:
        joined = SEPARATOR.join(intents)
        if joined in paths:
            raise LevelsInsteadOfLabel(f"send the label as one string: {joined!r}", label=joined)
        raise TooManyLabels(f"domain {domain.name!r} takes one label, {len(intents)} were sent")
    near = near_labels(intents[0], paths)
    raise UnknownLabel(
        f"this label is not in the taxonomy of domain {domain.name!r}; near ones: {', '.join(near) or 'none'}",
        near=near,
    )


def _changed(session: Session, domain: Domain, version: int) -> Sequence[Label]:
    labels = active(session, domain.id)
    digest = taxonomy_digest([label.path for label in labels])
    if digest != domain.taxonomy_digest or domain.taxonomy_version == 0:
        domain.taxonomy_version = version
        domain.taxonomy_digest = digest
        session.flush()
        if session.scalar(select(KeywordRule.id).where(KeywordRule.domain_id == domain.id).limit(1)) is not None:
            # The rules of a label that left, or came back.
            rule_sets.mark_changed(session, domain)
    return labels


def _all(session: Session, domain_id: int) -> Sequence[Label]:
    return session.scalars(select(Label).where(Label.domain_id == domain_id)).all()
