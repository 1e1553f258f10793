"""Take in labelled texts from elsewhere, with a report for every row."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Label, Text, now
from app.intent.selection import is_gold_candidate
from app.intent.text import MaskedText, text_hash
from app.services import annotations, domains, taxonomy

LABELER = "import"


@dataclass(slots=True)
class ImportReport:
    """How many rows became what. `refused` holds (line, reason), up to `MOST_REASONS`; the counts are whole."""

    MOST_REASONS = 1000

    counts: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, line: int, reason: str) -> None:
        """Count a row that could not be taken, and say why."""
        self.counts["refused"] += 1
        if len(self.refused) < self.MOST_REASONS:
            self.refused.append((line, reason))


@dataclass(frozen=True, slots=True)
class ImportRow:
    """One labelled text, masked, with its line in the file."""

    line: int
    text: MaskedText
    label: str


def take_in(
    session: Session, domain_name: str, rows: Sequence[ImportRow], *, create_labels: bool = False
) -> ImportReport:
    """Label these texts as imported: one slice of a file, in one transaction.

    A text that a person labelled keeps that label (`conflict` when the import disagrees). Running the same slice again
    changes nothing (`duplicate`), so an import that broke off is simply run again.
    """
    report = ImportReport()
    domain = domains.locked(session, domain_name)
    labels = {label.path: label for label in taxonomy.active(session, domain.id)}
    if create_labels:
        for path in dict.fromkeys(row.label for row in rows if row.label not in labels):
            labels[path] = taxonomy.add(session, domain, path)
    hashes = {row.line: text_hash(row.text) for row in rows}
    known = {
        text.text_hash: text
        for text in session.scalars(
            select(Text)
            .where(Text.domain_id == domain.id, Text.text_hash.in_(set(hashes.values())))
            .order_by(Text.id)
            .with_for_update(key_share=True)
        )
    }
    good = [row for row in rows if row.label in labels]
    new = {hashes[row.line]: row.text for row in reversed(good) if hashes[row.line] not in known}
    made = {key: _new_text(domain, text, key) for key, text in sorted(new.items())}
    session.add_all(made.values())
    # All at once: a statement for each text would be most of an import's time.
    session.flush()
    known |= made
    for row in rows:
        label = labels.get(row.label)
        if label is None:
            report.refuse(row.line, "the label is not in the taxonomy")
        else:
            report.counts[_label(session, known[hashes[row.line]], label)] += 1
    session.flush()
    return report


def _new_text(domain: Domain, text: MaskedText, key: str) -> Text:
    return Text(
        domain_id=domain.id,
        text_hash=key,
        group_hash=key,
        text=text,
        is_gold=is_gold_candidate(key),
        count=0,
        first_asked_at=now(),
        last_asked_at=now(),
        state="unlabelled",
        training_status="pending",
        # Written out, so that they are known when they change.
        priority=None,
        label_id=None,
        proposed_label=None,
    )


def _label(session: Session, text: Text, label: Label) -> str:
    if text.annotation_id is not None:
        return "duplicate" if text.label_id == label.id else "conflict"
    annotation = Annotation(
        domain_id=text.domain_id,
        text_id=text.id,
        question_id=text.question_id,
        labeler_id=LABELER,
        revision=_revision(session, text),
        kind="label",
        label_id=label.id,
        answer=[label.path],
        source="import",
    )
    annotations.apply(session, text, annotation)
    return "imported"


def _revision(session: Session, text: Text) -> int:
    return annotations.next_revision(session, text.id, LABELER) if text.count else 1
