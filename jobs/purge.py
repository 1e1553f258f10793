"""Delete what has outlived its use, and bring late labels to late twins."""

import logging
import shutil
import time
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.artifacts.store import WORKSHOP, ArtifactUnavailable
from app.db.session import database_time
from app.db.slices import slices
from app.operations import artifact_store, forgetting
from app.services import domains, folding, quarantine, runs, texts
from app.services.forgetting import Forgotten, asked_before, forget_unasked, outlived
from jobs.context import JobContext

logger = logging.getLogger(__name__)

LEFTOVER_SECONDS = 24 * 3600


def purge(context: JobContext) -> dict[str, Any]:
    """Let go of old runs, silent replicas, what killed trainers left, orphans, and what the settings say is too old."""
    settings = context.settings
    for _ in slices(lambda: context.work(folding.fold), going_on=lambda: not context.stopping.is_set()):
        pass
    detail: dict[str, Any] = {
        "projected": _project(context),
        "runs": context.work(runs.purge, older_than_days=settings.run_days),
        "replicas": context.work(runs.forget_replicas, older_than_days=settings.replica_days),
        "workshops": _sweep(context),
        **_let_artifacts_go(context),
    }
    if settings.question_days is not None or settings.unlabelled_text_days is not None:
        forgotten = _forget(context)
        detail |= {"forgotten_questions": forgotten.questions, "forgotten_texts": forgotten.texts}
    return detail


def _let_artifacts_go(context: JobContext) -> dict[str, Any]:
    """What no version names, and on request what old ones name; a store that is away keeps all until the next night."""
    work, store, keep = context.work, context.store, context.settings.keep_versions
    detail: dict[str, Any] = {}
    try:
        detail["orphans"] = artifact_store.remove_orphans(work, store)
        if keep is not None:
            detail["retired_versions"] = artifact_store.retire_old_versions(work, store, keep=keep)
    except ArtifactUnavailable as error:
        logger.warning("no artifact is removed: %s", error)
        detail["orphans"] = 0
    return detail


def _project(context: JobContext) -> int:
    return sum(slices(lambda: context.work(texts.project_due), going_on=lambda: not context.stopping.is_set()))


def _sweep(context: JobContext) -> int:
    workshop = context.store.local / WORKSHOP
    if not workshop.is_dir():
        return 0
    line = time.time() - max(LEFTOVER_SECONDS, context.settings.train_timeout_seconds)
    left = [folder for folder in workshop.iterdir() if folder.is_dir() and folder.stat().st_mtime < line]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)


def _forget(context: JobContext) -> Forgotten:
    """What is older than its setting allows, slice by slice; a stop ends it, and the next night goes on."""
    settings, work, total = context.settings, context.work, Forgotten()
    now = work.read(_now)
    if settings.question_days is not None:
        total.questions += work(quarantine.forget_before, now - timedelta(days=settings.question_days))
    for domain in work.read(domains.listing):
        if settings.question_days is not None:
            line = now - timedelta(days=settings.question_days)
            total.add(
                forgetting.forget_all(
                    work, asked_before(domain.id, line), going_on=lambda: not context.stopping.is_set()
                )
            )
        if settings.unlabelled_text_days is not None:
            total.add(_forget_unlabelled(context, domain.id, now - timedelta(days=settings.unlabelled_text_days)))
    if total.questions or total.texts:
        forgetting.tidy(work, context.store, settings.training_cache)
        forgetting.erase(work)
    return total


def _forget_unlabelled(context: JobContext, domain_id: int, line: datetime) -> Forgotten:
    total, after = Forgotten(), 0
    while not context.stopping.is_set():
        # Found without the right to write, so that no writer waits for the search.
        found = context.work.read(outlived, domain_id, line, after=after)
        if found is None:
            return total
        total.add(context.work(forget_unasked, found.unasked, line))
        if found.asked:
            total.add(forgetting.forget_all(context.work, found.questions()))
        after = found.last_id
    return total


def _now(session: Session) -> datetime:
    return database_time(session)
