"""Take in labelled texts from elsewhere, with a report for every row."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Label, Text, now
from app.intent.selection import is_gold_candidate
from app.intent.taxonomy import MOST_LABELS, TaxonomyInvalid, join, parse_taxonomy, split
from app.intent.text import MaskedText, text_hash
from app.services import answers, counting, domains, taxonomy

LABELER = "import"


@dataclass(frozen=True, slots=True)
class RowReport:
    """What became of a row: imported, duplicate, conflict, refused or ignored; never what it says."""

    line: int
    status: str
    reason: str | None = None


@dataclass(slots=True)
class ImportReport:
    """How many rows became what, and the rows of this slice. `refused`: (line, reason), up to `MOST_REASONS`."""

    MOST_REASONS = 1000

    counts: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[int, str]] = field(default_factory=list)
    rows: list[RowReport] = field(default_factory=list)

    def note(self, line: int, status: str, reason: str | None = None) -> None:
        """Count a row, and say why where it was not taken."""
        self.counts[status] += 1
        self.rows.append(RowReport(line, status, reason))
        if status == "refused" and len(self.refused) < self.MOST_REASONS:
            self.refused.append((line, reason or ""))

    def add(self, later: "ImportReport") -> None:
        """Count what became of a later slice as well; its rows are not kept."""
        self.counts += later.counts
        self.refused += sorted(later.refused)[: self.MOST_REASONS - len(self.refused)]

    def refuse(self, line: int, reason: str) -> None:
        """Count a row that could not be taken, and say why."""
        self.note(line, "refused", reason)


@dataclass(frozen=True, slots=True)
class ImportRow:
    """One labelled text, masked, with its line in the file. `proposed`: the label that was missing."""

    line: int
    text: MaskedText
    label: str
    proposed: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """The label that a row gives to its text."""

    text: MaskedText
    label: Label
    proposed: str | None


def take_in(
    session: Session, domain_name: str, rows: Sequence[ImportRow], *, create_labels: bool = False
) -> ImportReport:
    """Label these texts as imported: one slice of a file, in one transaction.

    A text that has a label keeps it: `duplicate` when the import says the same, `conflict` when it does not. Running
    the same slice again changes nothing, so an import that broke off is simply run again.
    """
    report = ImportReport()
    domain = domains.locked(session, domain_name)
    labels = {label.path: label for label in taxonomy.active(session, domain.id)}
    unusable = _create(session, domain, labels, rows) if create_labels else {}
    paths = {label.id: label.path for label in labels.values()}
    hashes = [text_hash(row.text) for row in rows]
    standing = _standing(session, domain.id, set(hashes))
    waiting = _waiting(session, domain.id, standing)
    fresh: dict[str, _Answer] = {}
    for row, key in zip(rows, hashes, strict=True):
        answer = _answer(row, labels, unusable)
        if isinstance(answer, str):
            report.refuse(row.line, answer)
            continue
        label_id = standing.get(key)
        if label_id is None:
            text = waiting.get(key)
            if text is not None and text.state == "discarded":
                report.note(row.line, "conflict", "a labeler discarded this text")
                continue
            if text is not None:
                _label(session, text, answer)
            else:
                fresh[key] = answer
            standing[key] = answer.label.id
            report.note(row.line, "imported")
        elif label_id == answer.label.id:
            report.note(row.line, "duplicate")
        else:
            report.note(row.line, "conflict", f"the text has another label: {paths.get(label_id, 'a retired one')}")
    _insert(session, domain, fresh)
    return report


def _create(session: Session, domain: Domain, labels: dict[str, Label], rows: Sequence[ImportRow]) -> Mapping[str, str]:
    """Add the labels that these rows name and the taxonomy lacks; returns the reason for those that can be none."""
    unusable: dict[str, str] = {}
    inner = {above for path in labels for above in _above(path)}
    for path in dict.fromkeys(row.label for row in rows if row.label not in labels):
        if len(labels) >= MOST_LABELS:
            unusable[path] = f"the taxonomy has {MOST_LABELS} labels, and no place for another"
        elif not _can_be_label(path):
            unusable[path] = "the label can be none: it is too long or too deep, or a level is empty"
        elif path in inner or not labels.keys().isdisjoint(_above(path)):
            unusable[path] = "the label can be none: it would lie inside another one, or another inside it"
        else:
            labels[path] = taxonomy.add(session, domain, path)
            inner.update(_above(path))
    return unusable


def _above(path: str) -> list[str]:
    levels = split(path)
    return [join(levels[:depth]) for depth in range(1, len(levels))]


def _can_be_label(path: str) -> bool:
    try:
        (spec,) = parse_taxonomy([{"path": path}])
    except TaxonomyInvalid:
        return False
    return spec.path == path


def _answer(row: ImportRow, labels: Mapping[str, Label], unusable: Mapping[str, str]) -> _Answer | str:
    """What the row says in today's labels, or why it says nothing."""
    if row.proposed is not None and row.proposed in labels:
        # Enough others proposed it since the file was written: it is a label by now.
        return _Answer(row.text, labels[row.proposed], None)
    label = labels.get(row.label)
    if label is None:
        return unusable.get(row.label, "the label is not in the taxonomy")
    if row.proposed is None or label.path != taxonomy.OTHER:
        return _Answer(row.text, label, None)
    if not _can_be_label(row.proposed):
        return "proposed_label can be no label"
    return _Answer(row.text, label, row.proposed)


def _standing(session: Session, domain_id: int, hashes: set[str]) -> dict[str, int | None]:
    """The label of each text that is known, by hash. Columns, not rows: a second run does little else."""
    found = session.execute(
        select(Text.text_hash, Text.label_id).where(Text.domain_id == domain_id, Text.text_hash.in_(hashes))
    )
    return dict(found.all())


def _waiting(session: Session, domain_id: int, standing: dict[str, int | None]) -> dict[str, Text]:
    """The known texts that have no label yet, locked; what another labelled in between is noted in `standing`."""
    hashes = [key for key, label_id in standing.items() if label_id is None]
    if not hashes:
        return {}
    texts = session.scalars(
        select(Text)
        .where(Text.domain_id == domain_id, Text.text_hash.in_(hashes))
        .order_by(Text.id)
        .with_for_update(key_share=True)
    ).all()
    standing.update({text.text_hash: text.label_id for text in texts})
    return {text.text_hash: text for text in texts if text.label_id is None}


def _label(session: Session, text: Text, answer: _Answer) -> None:
    """Label a text that was asked before, as a person would."""
    annotation = Annotation(
        **_annotation(text.domain_id, text.id, answer),
        question_id=text.question_id,
        revision=answers.next_revision(session, text.id, LABELER),
    )
    answers.apply(session, text, annotation)


def _insert(session: Session, domain: Domain, fresh: Mapping[str, _Answer]) -> None:
    """Store texts that nobody asked, with their labels: four statements, however many they are.

    `answers.apply` would come to the same, at five times the cost: there is no lease, no twin and no earlier answer
    to look for.
    """
    if not fresh:
        return
    # By their keys, so that two who bring the same texts never wait for each other.
    moment = now()
    texts = [_text(domain, key, answer) | {"labelled_at": moment} for key, answer in sorted(fresh.items())]
    session.execute(insert(Text), texts)
    counting.arrived(session, texts)
    counting.imported(session, domain.id, moment, len(texts))
    made = session.execute(
        select(Text.text_hash, Text.id).where(Text.domain_id == domain.id, Text.text_hash.in_(fresh))
    ).all()
    ids = dict(made)
    rows = [_annotation(domain.id, ids[key], answer) | {"created_at": moment} for key, answer in fresh.items()]
    session.execute(insert(Annotation), [row | {"revision": 1} for row in rows])
    session.execute(
        update(Text)
        .where(Text.id.in_(ids.values()))
        .values(
            annotation_id=select(Annotation.id)
            .where(Annotation.text_id == Text.id, Annotation.labeler_id == LABELER, Annotation.revision == 1)
            .scalar_subquery()
        ),
        execution_options={"synchronize_session": False},
    )


def _text(domain: Domain, key: str, answer: _Answer) -> dict[str, Any]:
    is_gold = is_gold_candidate(key)
    return {
        "domain_id": domain.id,
        "text_hash": key,
        "group_hash": key,
        "text": answer.text,
        "is_gold": is_gold,
        "count": 0,
        "first_asked_at": now(),
        "last_asked_at": now(),
        "state": "labelled",
        "label_id": answer.label.id,
        "label_source": "import",
        "proposed_label": answer.proposed,
        "training_status": "skipped" if is_gold else "pending",
    }


def _annotation(domain_id: int, text_id: int, answer: _Answer) -> dict[str, Any]:
    return {
        "domain_id": domain_id,
        "text_id": text_id,
        "labeler_id": LABELER,
        "kind": "label",
        "label_id": answer.label.id,
        "answer": [answer.label.path],
        "proposed_label": answer.proposed,
        "source": "import",
    }
