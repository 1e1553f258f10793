"""Forget on request: lay a tombstone, forget slice by slice, and leave no bytes where they can be reached."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.artifacts.store import WORKSHOP, ArtifactStore
from app.artifacts.training_cache import forget_texts, training_cache
from app.db.erasing import empty_write_ahead_log, rewrite, rewritten_by_itself
from app.db.session import UnitOfWork
from app.db.slices import slices
from app.db.tables import Annotation, Lease, ModelVersion, QuarantinedQuestion, Text, TrainingBatch, UserQuestion
from app.operations import tombstone_file
from app.scorers.artifact import ArtifactCorrupt, read_lineage
from app.services import audit, folding, forgetting, tombstones
from app.services.batches import LIVE
from app.services.forgetting import Forgotten
from app.services.tombstones import Stone
from app.services.versions import serving_ids

EXAMPLES = "examples.jsonl"
HOLDERS_OF_TEXT = (UserQuestion, Text, Annotation, Lease, QuarantinedQuestion)


@dataclass(frozen=True, slots=True)
class Report:
    """What was forgotten, and which versions learned from it.

    `erased`: on SQLite, whether no byte of it is left in the files; on servers, whether the tables were written anew.
    """

    forgotten: Forgotten
    versions: Counter[str]
    active_versions: frozenset[str]
    erased: bool


def foresee(work: UnitOfWork, stone: Stone, store: ArtifactStore) -> Report:
    """What forgetting this would take away; nothing is changed."""

    def look(session: Session) -> Forgotten:
        total = Forgotten()
        for condition in tombstones.conditions(session, stone):
            total.add(forgetting.foresee(session, condition))
        return total

    total = work.read(look)
    return Report(total, *_versions(work, total, store), erased=False)


def forget(
    work: UnitOfWork,
    stone: Stone,
    *,
    data_dir: Path,
    store: ArtifactStore,
    by: audit.Actor,
    rewriting: bool | None = None,
) -> Report:
    """Forget what the stone covers. When it breaks off, the stone is there: run it again, and it goes on.

    Args:
        rewriting: also write the tables anew, which others wait for; None: where `rewritten_by_itself` says so.
    """
    tombstone_file.append(data_dir, stone)
    work(tombstones.lay, stone, by=by.name)
    # A question that waits to be folded may ask a text that is here already, from a file.
    for _ in slices(lambda: work(folding.fold)):
        pass
    total = Forgotten()
    for condition in work.read(tombstones.conditions, stone):
        total.add(forget_all(work, condition))
    total.questions += work(tombstones.forget_quarantined, stone)
    tidy(work, store, training_cache(data_dir))
    work(_note, stone, total, by)
    erased = erase(work, rewriting=rewriting)
    return Report(total, *_versions(work, total, store), erased=erased)


def erase(work: UnitOfWork, *, rewriting: bool | None = None) -> bool:
    """See that the bytes of what was deleted go, too; whether they are gone for sure."""
    if rewriting is None:
        rewriting = rewritten_by_itself(work.engine)
    if rewriting:
        rewrite(work.engine, [table.__table__ for table in HOLDERS_OF_TEXT])  # type: ignore[misc]
    return empty_write_ahead_log(work.engine) and rewriting


def forget_all(
    work: UnitOfWork, condition: ColumnElement[bool], *, going_on: Callable[[], bool] = lambda: True
) -> Forgotten:
    """Forget these questions, each slice in a transaction of its own, with time between them for those who write."""
    total = Forgotten()

    def step() -> Forgotten | None:
        forgotten = work(forgetting.forget_slice, condition)
        return forgotten if forgotten.questions else None

    for forgotten in slices(step, going_on=going_on):
        total.add(forgotten)
    return total


def tidy(work: UnitOfWork, store: ArtifactStore, cache: Path) -> None:
    """Let go of what still points to forgotten questions, and of what trainers keep or killed ones left.

    `cache`: the folder of `training_cache`.
    """
    forget_texts(cache)
    page: int | None = 0
    while page is not None:
        page = work(forgetting.drop_lost_examples, after=page)
    workshop = store.local / WORKSHOP
    # Listed first: a folder is made after its batch is claimed, so one that nobody claims by now is nobody's.
    folders = [path.parent for path in workshop.glob(f"*/{EXAMPLES}")]
    live = work.read(_live_folders)
    for folder in folders:
        if folder.name not in live:
            shutil.rmtree(folder, ignore_errors=True)


def _live_folders(session: Session) -> set[str]:
    rows = session.execute(
        select(TrainingBatch.batch_id, TrainingBatch.claim_token).where(TrainingBatch.training_status.in_(LIVE))
    )
    return {f"{batch_id}-{(token or '')[:8]}" for batch_id, token in rows}


def _note(session: Session, stone: Stone, total: Forgotten, by: audit.Actor) -> None:
    # Who was forgotten stands in no audit row: only that somebody was, and how much it was.
    after = {"questions": total.questions, "texts": total.texts, "kept_texts": total.kept_texts}
    audit.note(session, by, "data.forget", stone.kind, after=after)


def _versions(work: UnitOfWork, total: Forgotten, store: ArtifactStore) -> tuple[Counter[str], frozenset[str]]:
    """The versions that learned from the forgotten texts: by their batches, and by what their artifacts say."""
    versions: Sequence[ModelVersion] = work.read(lambda session: session.scalars(select(ModelVersion)).all())
    learned = Counter(total.trained)
    if total.text_ids:
        for version in versions:
            learned[version.version] = max(
                learned[version.version], _in_lineage(store, version.artifact_digest, total.text_ids)
            )
    serving = work.read(serving_ids)
    active = frozenset(version.version for version in versions if version.id in serving and learned[version.version])
    return +learned, active


def _in_lineage(store: ArtifactStore, digest: str, text_ids: Sequence[int]) -> int:
    try:
        lineage = read_lineage(store.fetch(digest))
    except (ArtifactCorrupt, OSError):
        return 0
    return int(np.isin(np.asarray(text_ids, dtype=np.int64), np.asarray(lineage, dtype=np.int64)).sum())
