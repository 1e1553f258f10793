"""The members of a batch: which texts may be trained on, which are frozen in it, and which it holds claimed."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session

from app.db.tables import BatchItem, Domain, Label, ModelVersion, Text, TrainingBatch, UserQuestion
from app.errors import BatchState, OneClass
from app.intent.recipes import IMPORTED
from app.services import counting

LEAST_TEXTS_PER_LABEL = 2
PAGE = 1000

# The rows are not in the session: there is nothing to bring up to date.
_BLIND = {"synchronize_session": False}


def usable(domain_id: int) -> Any:
    """Labelled, allowed and kept: what may be in a batch at all.

    A proposal stored under 其他 waits until it is a label of its own: training it as 其他 would teach the wrong thing.
    """
    return (
        (Text.domain_id == domain_id)
        & (Text.state == "labelled")
        & (Text.train_allowed.is_(True))
        & (Text.text.is_not(None))
        & (Text.proposed_label.is_(None))
    )


def trainable(domain_id: int, waiting: Collection[int] = ()) -> Any:
    """The condition for a text to be trained on: usable, not gold, and its label still in the taxonomy.

    `waiting`: the labels of `waiting_labels`, whose texts are not trained on yet; counted in without them.
    """
    condition = (
        usable(domain_id)
        & (Text.is_gold.is_(False))
        & Text.label_id.in_(select(Label.id).where(Label.domain_id == domain_id, Label.status == "active"))
    )
    return condition & Text.label_id.not_in(waiting) if waiting else condition


def waiting_labels(session: Session, domain_id: int) -> Set[int]:
    """The labels that grew out of a proposal and have too few texts to be trained: see `too_few`."""
    patience = _patience(session, domain_id)
    if not patience:
        return frozenset()
    rows = session.execute(
        select(Text.training_status, Text.label_id, func.count(Text.id))
        .where(usable(domain_id), Text.is_gold.is_(False), Text.label_id.in_(patience))
        .group_by(Text.training_status, Text.label_id)
    ).all()
    counts = {(status, label_id): count for status, label_id, count in rows if label_id is not None}
    return too_few(session, domain_id, counts)


def too_few(session: Session, domain_id: int, counts: Mapping[tuple[str, int], int]) -> Set[int]:
    """Of labels with so many trainable texts by training status and label: those that wait for more.

    Only labels with a `trains_from` above the least that any label needs can wait. One that a finished batch held
    waits no more: were its texts to fall below the number again, a version that knows it would forget it.
    """
    return frozenset(
        label_id
        for label_id, least in _patience(session, domain_id).items()
        if counts.get(("used", label_id), 0) == 0 and counts.get(("pending", label_id), 0) < least
    )


def _patience(session: Session, domain_id: int) -> dict[int, int]:
    rows = session.execute(
        select(Label.id, Label.trains_from).where(
            Label.domain_id == domain_id, Label.status == "active", Label.trains_from > LEAST_TEXTS_PER_LABEL
        )
    ).all()
    return {label_id: least for label_id, least in rows}  # noqa: C416


Members = list[dict[str, Any]]


def of_batch(session: Session, domain: Domain, labels: Mapping[int, str]) -> tuple[Members, Members, Members]:
    """What a batch may hold now: new texts, which are locked, replay and gold, each as `of_role` gives it.

    Whether a label has texts enough is decided by these rows, so that nobody's answer comes between. Without its
    texts its gold is left out too: what was never taught is not asked.
    """
    new, replay, gold = (of_role(session, domain, labels, role) for role in ("new", "replay", "gold"))
    counts = Counter(("pending", int(member["label_id"])) for member in new)
    counts.update(("used", int(member["label_id"])) for member in replay)
    waiting = too_few(session, domain.id, counts)
    without = ([member for member in some if member["label_id"] not in waiting] for some in (new, replay, gold))
    new, replay, gold = without
    return new, replay, gold


def never_learned() -> Any:
    """The condition for gold to judge: no version learned from it, before it came into a group that is gold."""
    learned = (
        select(BatchItem.text_id)
        .join(ModelVersion, ModelVersion.training_batch_id == BatchItem.batch_id)
        .where(BatchItem.text_id == Text.id, BatchItem.role != "gold", ModelVersion.recipe != IMPORTED)
    )
    return ~learned.exists()


def of_role(session: Session, domain: Domain, labels: Mapping[int, str], role: str) -> list[dict[str, Any]]:
    """The texts that play this role today, with their labels, by id. New ones are locked.

    Without the lock a person could answer one of them again between this look and the claim, and that answer would
    count as trained on. `labels` are looked up here and not joined: a join would lock their rows as well.
    """
    statement = select(Text.id, Text.label_id).where(usable(domain.id)).order_by(Text.id)
    if role == "gold":
        statement = statement.where(Text.is_gold.is_(True), never_learned())
    else:
        status = "pending" if role == "new" else "used"
        statement = statement.where(Text.is_gold.is_(False), Text.training_status == status)
    rows: Iterable[tuple[int, int | None]] = session.execute(statement).all()
    if role == "new":
        # Found first and locked by their ids: a search that locks would, on MariaDB, lock all that it looks at.
        pages = _pages([text_id for text_id, _ in rows])
        locking = statement.with_for_update(key_share=True)
        rows = [row for page in pages for row in session.execute(locking.where(Text.id.in_(page)))]
    return [
        {"text_id": text_id, "role": role, "label_id": label_id, "label": path}
        for text_id, label_id in rows
        if label_id is not None and (path := labels.get(label_id)) is not None
    ]


def claim(session: Session, batch: TrainingBatch, text_ids: Sequence[int]) -> None:
    """Mark these texts, which the caller has locked, as held by the batch."""
    for page in _pages(text_ids):
        counting.trained(session, page, "claimed")
        session.execute(
            update(Text).where(Text.id.in_(page)).values(training_status="claimed", claimed_by=batch.id),
            execution_options=_BLIND,
        )


def _pages(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Lists of a length that one statement takes. Named one by one: for a subquery MariaDB would scan the table."""
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))


def refuse_one_class(domain: Domain, members: Sequence[Mapping[str, Any]]) -> None:
    """Refuse members whose labels training could not tell apart.

    Raises:
        OneClass: fewer than two labels have two texts each.
    """
    counts = Counter(member["label_id"] for member in members)
    enough = sum(count >= LEAST_TEXTS_PER_LABEL for count in counts.values())
    if enough < 2:
        raise OneClass(
            f"domain {domain.name!r} has {enough} label(s) with at least two texts to train on; training needs two",
            trainable_labels=enough,
        )


def digest(items: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over texts, roles and labels in their order, as 64 hex digits."""
    sha256 = hashlib.sha256()
    for item in items:
        sha256.update(f"{item['text_id']}\t{item['role']}\t{item['label_id']}\n".encode())
    return sha256.hexdigest()


def has_label_beside(session: Session, domain: Domain, batch: TrainingBatch) -> bool:
    """Whether a label waits that this batch did not hold. Told by what it held, not by times of different machines."""
    held = exists().where(
        BatchItem.batch_id == batch.id, BatchItem.text_id == Text.id, BatchItem.label_id == Text.label_id
    )
    waiting = waiting_labels(session, domain.id)
    statement = select(Text.id).where(trainable(domain.id, waiting), Text.training_status == "pending", ~held).limit(1)
    return session.scalar(statement) is not None


def one_class_reason(per_label: Mapping[int, int]) -> str | None:
    """In words that a batch with so many texts of each label would be refused for its one class, or None."""
    if sum(count >= LEAST_TEXTS_PER_LABEL for count in per_label.values()) < 2:
        return "fewer than two labels have two texts to train on"
    return None


def claim_again(session: Session, batch: TrainingBatch) -> None:
    """Take back the new texts of a failed batch, all of them and with the labels that it froze.

    Raises:
        BatchState: one was answered anew or is in another batch.
    """
    unchanged = session.scalars(
        select(Text.id)
        .join(BatchItem, BatchItem.text_id == Text.id)
        .where(
            BatchItem.batch_id == batch.id,
            BatchItem.role == "new",
            Text.training_status == "pending",
            Text.label_id == BatchItem.label_id,
            Text.proposed_label.is_(None),
        )
        .order_by(Text.id)
        .with_for_update(of=Text, key_share=True)
    ).all()
    if len(unchanged) != batch.question_count:
        raise BatchState(f"labels of batch {batch.batch_id} were changed or went into another batch: open a new one")
    claim(session, batch, unchanged)


def end_claim(session: Session, batch_pk: int, status: str) -> None:
    """Let go of what the batch holds. Texts that were labelled anew meanwhile have left the claim, and keep waiting."""
    # Locked before their questions are looked for: a twin that is being folded in is then seen here, or sees this.
    claimed = session.scalars(
        select(Text.id).where(Text.claimed_by == batch_pk).order_by(Text.id).with_for_update(key_share=True)
    ).all()
    for page in _pages(claimed):
        counting.trained(session, page, status)
        session.execute(
            update(UserQuestion).where(UserQuestion.text_id.in_(page)).values(training_status=status),
            execution_options=_BLIND,
        )
        session.execute(
            update(Text).where(Text.id.in_(page)).values(training_status=status, claimed_by=None),
            execution_options=_BLIND,
        )
