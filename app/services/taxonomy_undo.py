"""Undo a change of the taxonomy: labels, texts and rules have again what they had, but for what people did since."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Annotation, Domain, Label, TaxonomyChange, Text
from app.errors import ChangedSince, NotFound
from app.intent.taxonomy import TaxonomyInvalid, parse_taxonomy
from app.services import (
    answers,
    audit,
    domains,
    label_projection,
    labels_back,
    relabelling,
    rule_usage,
    taxonomy,
    taxonomy_changes,
    taxonomy_paths,
    taxonomy_rules,
)
from app.services.audit import Actor
from app.services.labels_back import Former
from app.services.rule_usage import Given, Regiven


@dataclass(frozen=True, slots=True)
class Undone:
    """A change that was undone: how many texts have again what they had, and how many keep what people said since."""

    change: TaxonomyChange
    restored_texts: int
    kept_texts: int
    taxonomy_version: int


def undo(session: Session, change_id: int, *, by: Actor) -> Undone:
    """Take a change back: the last one, or an older one whose labels are still as it left them.

    What people answered since stays, and a label that the change made and that they gave stays with it.

    Raises:
        NotFound: no such change.
        ChangedSince: it was undone already, or its labels were changed since.
    """
    domain, change = _locked(session, change_id)
    before = change.before
    labels = {label.id: label for label in taxonomy.listing(session, domain.id)}
    _refuse_changed(labels, before["after"])
    formers, kept = _formers(session, change)
    if before.get("texts"):
        # Nobody gives the labels that may leave now until this has looked who gave them.
        new = sorted(int(label_id) for label_id in before["after"])
        session.execute(select(Label.id).where(Label.id.in_(new)).order_by(Label.id).with_for_update()).all()
    _labels_back(session, domain, labels, before)
    _rules_and_texts_back(session, domain, change, formers)
    _retire_unused(session, labels, before)
    _refuse_unless_valid(session, domain)
    taxonomy.changed(session, domain)
    change.undone_at, change.undone_by = database_time(session), by.name
    session.flush()
    told = {"change": change.id, "kind": change.kind, "version": domain.taxonomy_version}
    told |= {"restored_texts": len(formers), "kept_texts": kept}
    audit.note(session, by, "taxonomy.undo", domain.name, domain_id=domain.id, after=told)
    return Undone(change, len(formers), kept, domain.taxonomy_version)


def last(session: Session, domain: Domain) -> TaxonomyChange:
    """The newest change of a domain that was not undone.

    Raises:
        NotFound: there is none.
    """
    change = session.scalar(
        select(TaxonomyChange)
        .where(TaxonomyChange.domain_id == domain.id, TaxonomyChange.undone_at.is_(None))
        .order_by(TaxonomyChange.id.desc())
        .limit(1)
    )
    if change is None:
        raise NotFound(f"domain {domain.name!r} has no change of its taxonomy that could be undone")
    return change


def _locked(session: Session, change_id: int) -> tuple[Domain, TaxonomyChange]:
    found = session.get(Domain, taxonomy_changes.find(session, change_id).domain_id)
    if found is None:
        raise AssertionError(f"change {change_id} has lost its domain")
    domain = domains.locked(session, found.name)
    change = session.get(TaxonomyChange, change_id, populate_existing=True)
    if change is None or change.undone_at is not None:
        raise ChangedSince(f"change {change_id} was undone already")
    return domain, change


def _refuse_changed(labels: Mapping[int, Label], after: Mapping[str, Sequence[Any]]) -> None:
    for label_id, (path, status, _, merged_into_id) in after.items():
        label = labels[int(label_id)]
        if (label.path, label.status, label.merged_into_id) != (path, status, merged_into_id):
            raise ChangedSince(f"label {path!r} was changed since: undo what came after first", label=label.path)


def _formers(session: Session, change: TaxonomyChange) -> tuple[list[Former], int]:
    """The texts that nobody answered since, locked, with what they had; and how many somebody did answer."""
    told = change.before.get("texts")
    if not told:
        return [], 0
    rows = list(relabelling.locked(session, told["ids"]))
    there = {row.id: row for row in rows}
    former_of = dict(zip(told["ids"], told["annotations"], strict=True))
    standing: dict[int, Any] = {}
    for page in label_projection.paged(rows):
        standing |= relabelling.annotations_of(session, page)
    given = _annotations(session, list(former_of.values()))
    formers = []
    for number, text_id in enumerate(told["ids"]):
        text = there.get(text_id)
        if text is None or not _untouched(text, standing.get(text.annotation_id), former_of[text_id]):
            continue
        annotation = given[former_of[text_id]]
        apart = told["apart"].get(str(text_id))
        formers.append(
            Former(
                text=text,
                annotation_id=annotation.id,
                label_id=annotation.label_id,
                training_status=_training(text, told["training"][number]),
                strategy=told["strategies"][told["strategy"][number]] or None,
                labelled_at=datetime.fromisoformat(apart[0]) if apart else annotation.created_at,
                label_source=apart[1] if apart else annotation.source,
            )
        )
    return formers, len(there) - len(formers)


def _annotations(session: Session, annotation_ids: Sequence[int]) -> dict[int, Any]:
    columns = (Annotation.id, Annotation.label_id, Annotation.created_at, Annotation.source)
    return {
        row.id: row
        for page in label_projection.paged(annotation_ids)
        for row in session.execute(select(*columns).where(Annotation.id.in_(page)))
    }


def _untouched(text: Any, standing: Any, former_id: int) -> bool:
    """Whether the text is as the change left it: given its label by the change, or asked again and not answered."""
    if text.annotation_id is None:
        return bool(text.state == "unlabelled")
    ours = standing is not None and standing.labeler_id == answers.SYSTEM
    return bool(ours and standing.supersedes_id == former_id)


def _training(text: Any, before: str) -> str:
    """Its place in training: the old one, unless a batch took the other label, or let go of it, meanwhile."""
    if text.is_gold:
        return "skipped"
    return before if text.training_status == "pending" and before != "claimed" else "pending"


def _labels_back(session: Session, domain: Domain, labels: Mapping[int, Label], before: Mapping[str, Any]) -> None:
    kept = {int(label_id): values for label_id, values in before["labels"].items()}
    renamed = {label_id: path for label_id, (path, *_) in kept.items() if labels[label_id].path != path}
    taken = {label.path for label in labels.values()} & set(renamed.values())
    if taken:
        raise ChangedSince(f"another label has the path {min(taken)!r} by now", label=min(taken))
    if renamed:
        theirs = [labels[label_id] for label_id in renamed]
        taxonomy_paths.take(session, domain, theirs, renamed)
        taxonomy_paths.show(session, relabelling.hold(session, domain, renamed), renamed)
    for label_id, (_, status, position, merged_into_id) in kept.items():
        label = labels[label_id]
        label.position, label.merged_into_id = position, merged_into_id
        # Those that were woken are looked at when the texts are back.
        if status == "active":
            label.status = status
    pairs_before, pairs_after = before.get("pairs", (None, None))
    # What somebody set since stays.
    if pairs_before is not None and domain.confusion_pairs == pairs_after:
        domain.confusion_pairs = pairs_before
    session.flush()


def _rules_and_texts_back(
    session: Session,
    domain: Domain,
    change: TaxonomyChange,
    formers: Sequence[Former],
) -> None:
    target_id = next((values[3] for values in change.before["after"].values() if values[3] is not None), None)
    moves = taxonomy_rules.bring_back(session, domain, change.before.get("rules", {}), target_id)
    regiven = [_regiven(one) for one in formers if one.text.rule_hits]
    moved = {one.text.id for one in formers}
    beside = taxonomy_changes.hits_of_label(session, domain, target_id, without=moved) if moves and target_id else []
    rule_usage.judge_anew(session, domain.id, [*regiven, *beside], moves)
    labels_back.bring_back(session, domain, formers, reason=f"change {change.id} of the taxonomy was undone")


def _regiven(one: Former) -> Regiven:
    text = one.text
    before = None if text.label_id is None else Given(text.label_id, text.labelled_at)
    return Regiven(text.rule_hits, before, Given(one.label_id, one.labelled_at))


def _retire_unused(session: Session, labels: Mapping[int, Label], before: Mapping[str, Any]) -> None:
    """Labels that the change made or woke leave again, unless somebody gave one since."""
    for label_id in map(int, before["after"]):
        kept = before["labels"].get(str(label_id))
        if kept is not None and kept[1] == "active":
            continue
        since = (Text.label_id == label_id) & (Text.annotation_id > before["last_annotation"])
        if session.scalar(select(Text.id).where(Text.state == "labelled", since).limit(1)) is None:
            labels[label_id].status = "retired"
    session.flush()


def _refuse_unless_valid(session: Session, domain: Domain) -> None:
    try:
        parse_taxonomy([label.path for label in taxonomy.active(session, domain.id)])
    except TaxonomyInvalid as error:
        raise ChangedSince(
            f"people gave labels that have no place beside the old ones: merge those first ({error})"
        ) from error
