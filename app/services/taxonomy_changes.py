"""Changes of the taxonomy after labels were given: rename, move, merge, retire, split; each counted, then made."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session, defer

from app.db.tables import Annotation, Domain, KeywordRule, Label, TaxonomyChange, Text, TrainingBatch
from app.errors import LabelExists, NotFound, TaxonomyRefused, UnknownLabel
from app.intent.taxonomy import TaxonomyInvalid
from app.intent.taxonomy_changes import NoSuchLabel, PathTaken, Plan, Tree, Wanted, plan
from app.services import (
    audit,
    domains,
    label_projection,
    relabelling,
    rule_usage,
    taxonomy,
    taxonomy_paths,
    taxonomy_rules,
)
from app.services.audit import Actor
from app.services.rule_usage import Given, Regiven


@dataclass(frozen=True, slots=True)
class Touched:
    """What a change is about: labels, the texts with them, their questions, answers, rules, and waiting texts that show
    an old path; `batches`: those that hold some of the texts at this moment.
    """

    labels: int = 0
    texts: int = 0
    gold_texts: int = 0
    questions: int = 0
    annotations: int = 0
    rules: int = 0
    waiting_texts: int = 0
    batches: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Made:
    """A change with what it touched; without an id it was only tried."""

    id: int | None
    kind: str
    touched: Touched
    taxonomy_version: int


def make(
    session: Session,
    domain_name: str,
    wanted: Wanted,
    *,
    by: Actor,
    reason: str | None = None,
    dry_run: bool = False,
) -> Made:
    """Change the taxonomy, with all that hangs on its labels; `dry_run`: only say what it would touch.

    What a running batch holds it keeps with the label that was frozen, as for any label that changes.

    Raises:
        DomainNotFound, UnknownLabel, LabelExists, TaxonomyRefused.
    """
    domain = domains.find(session, domain_name) if dry_run else domains.locked(session, domain_name)
    labels = {label.id: label for label in taxonomy.listing(session, domain.id)}
    planned = _planned(labels.values(), wanted)
    if dry_run:
        return Made(None, wanted.kind, _touched(session, domain, labels, planned), domain.taxonomy_version)
    held = relabelling.hold(session, domain, planned.touched)
    touched = _touched(session, domain, labels, planned)
    before = _before(session, labels, planned, held)
    given = _give(session, domain, labels, planned)
    _carry_out(session, domain, wanted, planned, held, given, before)
    taxonomy.changed(session, domain)
    named = {**labels, **{label.id: label for label in given}}
    before["after"] = {
        str(one): _as_kept(named[one]) for one in sorted({*planned.touched, *(label.id for label in given)})
    }
    change = TaxonomyChange(
        domain_id=domain.id,
        kind=wanted.kind,
        arguments={key: value for key, value in asdict(wanted).items() if key != "kind"},
        touched=asdict(touched),
        before=before,
        taxonomy_version=domain.taxonomy_version,
        made_by=by.name,
        reason=reason,
    )
    session.add(change)
    session.flush()
    noted = {"change": change.id, "arguments": change.arguments, "touched": change.touched}
    audit.note(
        session,
        by,
        f"taxonomy.{wanted.kind}",
        domain.name,
        domain_id=domain.id,
        after=noted | {"version": domain.taxonomy_version},
    )
    return Made(change.id, wanted.kind, touched, domain.taxonomy_version)


def _planned(labels: Iterable[Label], wanted: Wanted) -> Plan:
    known = list(labels)
    tree = Tree(
        {label.id: label.path for label in known},
        [label.id for label in known if label.status == "active"],
        kept=(taxonomy.OTHER,),
    )
    try:
        return plan(tree, wanted)
    except NoSuchLabel as error:
        raise UnknownLabel(str(error), near=error.near) from error
    except PathTaken as error:
        raise LabelExists(str(error)) from error
    except TaxonomyInvalid as error:
        raise TaxonomyRefused(str(error)) from error


def _touched(session: Session, domain: Domain, labels: Mapping[int, Label], planned: Plan) -> Touched:
    ids = planned.touched
    theirs = (Text.domain_id == domain.id) & (Text.state == "labelled") & Text.label_id.in_(ids)
    texts, gold, questions = session.execute(
        select(func.count(), func.sum(case((Text.is_gold.is_(True), 1), else_=0)), func.sum(Text.count)).where(theirs)
    ).one()
    answers = (Annotation.domain_id == domain.id) & Annotation.label_id.in_(ids)
    rules = (KeywordRule.domain_id == domain.id) & KeywordRule.label_id.in_(ids)
    holding = select(Text.claimed_by).where(theirs, Text.claimed_by.is_not(None)).distinct()
    new = {labels[label_id].path: path for label_id, path in planned.paths.items()}
    return Touched(
        labels=len(ids),
        texts=texts,
        gold_texts=int(gold or 0),
        questions=int(questions or 0),
        annotations=session.scalar(select(func.count(Annotation.id)).where(answers)) or 0,
        rules=session.scalar(select(func.count(KeywordRule.id)).where(rules)) or 0,
        waiting_texts=taxonomy_paths.rename_answers(session, domain.id, new, dry_run=True) if new else 0,
        batches=list(
            session.scalars(
                select(TrainingBatch.batch_id).where(TrainingBatch.id.in_(holding)).order_by(TrainingBatch.id)
            )
        ),
    )


def _before(session: Session, labels: Mapping[int, Label], planned: Plan, held: Sequence[Any]) -> dict[str, Any]:
    """What it takes to undo the change: ids and states, and of words only those of the taxonomy."""
    woken = [label.id for label in labels.values() if label.path in planned.given]
    kept = {label_id: labels[label_id] for label_id in (*planned.touched, *woken)}
    before: dict[str, Any] = {
        "labels": {str(label_id): _as_kept(label) for label_id, label in kept.items()},
        "last_annotation": session.scalar(select(func.max(Annotation.id))) or 0,
    }
    if planned.target is not None or planned.requeues:
        before["texts"] = _texts_before(session, held)
    return before


def _as_kept(label: Label) -> list[Any]:
    return [label.path, label.status, label.position, label.merged_into_id]


def _texts_before(session: Session, held: Sequence[Any]) -> dict[str, Any]:
    """By columns: of a hundred thousand texts it is two megabytes so."""
    strategies = sorted({text.strategy or "" for text in held})
    # What the annotation does not say by itself: of texts that an earlier change gave their label.
    apart: dict[str, Any] = {}
    for page in label_projection.paged(held):
        standing = relabelling.annotations_of(session, page)
        for text in page:
            one = standing[text.annotation_id]
            if (text.labelled_at, text.label_source) != (one.created_at, one.source):
                apart[str(text.id)] = [text.labelled_at.isoformat(), text.label_source]
    return {
        "ids": [text.id for text in held],
        "annotations": [text.annotation_id for text in held],
        "training": [text.training_status for text in held],
        "strategies": strategies,
        "strategy": [strategies.index(text.strategy or "") for text in held],
        "apart": apart,
    }


def _give(session: Session, domain: Domain, labels: Mapping[int, Label], planned: Plan) -> list[Label]:
    """The labels that the plan wants given, made or woken; new ones stand where what they come from stood."""
    by_path = {label.path: label for label in labels.values()}
    position = min(labels[label_id].position for label_id in planned.touched)
    given = []
    for path in planned.given:
        label = by_path.get(path)
        if label is None:
            label = Label(domain_id=domain.id, path=path, position=position, since_version=domain.taxonomy_version + 1)
            session.add(label)
        label.status, label.merged_into_id = "active", None
        given.append(label)
    session.flush()
    return given


def _carry_out(
    session: Session,
    domain: Domain,
    wanted: Wanted,
    planned: Plan,
    held: Sequence[Any],
    given: Sequence[Label],
    before: dict[str, Any],
) -> None:
    sources = {label.id: label for label in taxonomy.listing(session, domain.id) if label.id in planned.touched}
    names = {label_id: label.path for label_id, label in sources.items()}
    if planned.paths:
        taxonomy_paths.take(session, domain, list(sources.values()), planned.paths)
        taxonomy_paths.show(session, held, planned.paths)
    for label_id in planned.retired:
        sources[label_id].status = "retired"
    session.flush()
    if planned.retired:
        _settle_pairs(domain, [names[label_id] for label_id in planned.retired], planned.target, before)
    if planned.target is not None:
        target = given[0]
        for label in sources.values():
            label.merged_into_id = target.id
        moves, before["rules"] = taxonomy_rules.move(session, domain, planned.touched, target)
        beside = hits_of_label(session, domain, target.id) if moves else []
        regiven = [_regiven(text, target.id) for text in held if text.rule_hits]
        rule_usage.judge_anew(session, domain.id, [*regiven, *beside], moves)
        for label_id, path in names.items():
            theirs = [text for text in held if text.label_id == label_id]
            relabelling.give(session, domain, theirs, target, reason=f"{path} was merged into {target.path}")
    if planned.requeues:
        rule_usage.judge_anew(session, domain.id, [_regiven(text, None) for text in held if text.rule_hits], {})
        parts = ", ".join(label.path for label in given)
        became = f"before it was split into {parts}" if given else "before it left the taxonomy"
        for label_id, path in names.items():
            theirs = [text for text in held if text.label_id == label_id]
            relabelling.requeue(session, domain, theirs, strategy=wanted.kind, reason=f"was labelled {path} {became}")


def _settle_pairs(domain: Domain, gone: Sequence[str], target: str | None, before: dict[str, Any]) -> None:
    if domain.confusion_pairs is not None:
        pairs = taxonomy_paths.pairs_without(domain.confusion_pairs, dict.fromkeys(gone, target))
        before["pairs"] = [domain.confusion_pairs, pairs or None]
        domain.confusion_pairs = pairs or None


def _regiven(text: Any, label_id: int | None) -> Regiven:
    after = Given(label_id, text.labelled_at) if label_id is not None else None
    return Regiven(text.rule_hits, Given(text.label_id, text.labelled_at), after)


def hits_of_label(session: Session, domain: Domain, label_id: int, *, without: Collection[int] = ()) -> list[Regiven]:
    """The texts that keep this label and that rules had matched: there, a rule that moves is right or wrong anew."""
    rows = session.execute(
        select(Text.id, Text.rule_hits, Text.labelled_at).where(
            Text.domain_id == domain.id,
            Text.state == "labelled",
            Text.label_id == label_id,
            Text.rule_hits.is_not(None),
        )
    )
    stay = [(hits, Given(label_id, at)) for one, hits, at in rows if hits and at is not None and one not in without]
    return [Regiven(hits, same, same) for hits, same in stay]


def find(session: Session, change_id: int) -> TaxonomyChange:
    """One change.

    Raises:
        NotFound: there is none of this id.
    """
    change = session.get(TaxonomyChange, change_id)
    if change is None:
        raise NotFound("there is no change of the taxonomy of this id")
    return change


def listing(session: Session, domain_id: int, *, limit: int, before: int | None = None) -> Sequence[TaxonomyChange]:
    """The changes of a domain, the newest first."""
    statement = select(TaxonomyChange).where(TaxonomyChange.domain_id == domain_id)
    if before is not None:
        statement = statement.where(TaxonomyChange.id < before)
    # Without what undoing needs: of each it may be megabytes.
    return session.scalars(
        statement.options(defer(TaxonomyChange.before)).order_by(TaxonomyChange.id.desc()).limit(limit)
    ).all()
