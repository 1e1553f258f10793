"""Delete what has outlived its use, and bring late labels to late twins."""

import shutil
import time
from typing import Any

from app.services import runs, texts
from jobs.context import WORKSHOP, JobContext

LEFTOVER_SECONDS = 24 * 3600


def purge(context: JobContext) -> dict[str, Any]:
    """Forget old runs and silent replicas, finish folding, and remove what killed trainers left behind."""
    settings = context.settings
    while not context.stopping.is_set() and context.work(texts.fold):
        pass
    return {
        "projected": _project(context),
        "runs": context.work(runs.purge, older_than_days=settings.run_days),
        "replicas": context.work(runs.forget_replicas, older_than_days=settings.replica_days),
        "workshops": _sweep(context),
    }


def _project(context: JobContext) -> int:
    projected = 0
    while not context.stopping.is_set() and (now := context.work(texts.project_due)):
        projected += now
    return projected


def _sweep(context: JobContext) -> int:
    workshop = context.settings.artifacts / WORKSHOP
    if not workshop.is_dir():
        return 0
    line = time.time() - max(LEFTOVER_SECONDS, context.settings.train_timeout_seconds)
    left = [folder for folder in workshop.iterdir() if folder.is_dir() and folder.stat().st_mtime < line]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)
