"""Work on one batch: write its spec, run the trainer, prove the artifact, register the version."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from app.artifacts import base_models
from app.artifacts.measured import read_measured
from app.artifacts.store import WORKSHOP
from app.db.session import UnitOfWork
from app.db.tables import ModelVersion
from app.errors import ClaimLost
from app.intent.recipes import CONTINUING, GENERATIVE, IMPORTED, WITH_BASE
from app.scorers.artifact import ArtifactUnusable, read_lineage, verify
from app.services import batches, taxonomy, versions
from jobs import generative_proving, proving
from jobs.context import JobContext
from jobs.reasons import in_words, is_of_database, may_pass
from jobs.trainer_process import TrainerFailed, TrainerStopped, train

T = TypeVar("T")

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
PATIENCE_SECONDS = 1.0
# The rest of the progress bar is the proof.
TRAINER_SHARE = 0.9
BASE_MODEL = "base_model"


class Claim:
    """Keeps a claimed batch alive from a thread of its own, and knows when it is lost."""

    def __init__(self, context: JobContext, claimed: batches.Claimed) -> None:
        self._context = context
        self._claimed = claimed
        # Three beats must fit before the batch is given up for lost.
        self._beat_seconds = min(context.settings.heartbeat_seconds, context.settings.lost_after_seconds / 3)
        self._noted = (0.0, "starting")
        self._lost = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Claim":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    @property
    def wanted(self) -> bool:
        """Whether the work is still ours to do."""
        return not self._lost.is_set() and not self._context.stopping.is_set()

    @property
    def lost(self) -> bool:
        """Whether another may have the batch."""
        return self._lost.is_set()

    def note(self, progress: float, stage: str) -> None:
        """Remember how far the work is; the heartbeat writes it down."""
        self._noted = (progress, stage)

    def enter(self, status: str, progress: float, stage: str) -> None:
        """Write a new status down at once.

        Raises:
            ClaimLost: the batch is no longer ours.
        """
        self._noted = (progress, stage)
        self.patiently(lambda: self._report(self._noted, status=status))

    def patiently(self, act: Callable[[], T]) -> T:
        """`act()`, again while the database is away: what was trained is worth more than a short wait.

        Raises:
            TrainerStopped: the claim was lost or the clock shuts down meanwhile.
        """
        start = time.monotonic()
        while True:
            try:
                return act()
            except Exception as error:
                if not may_pass(error) or time.monotonic() - start > self._context.settings.lost_after_seconds:
                    raise
                logger.info("batch %s waits: %s", self._claimed.batch.batch_id, in_words(error))
            if self._lost.is_set() or self._context.stopping.wait(PATIENCE_SECONDS):
                raise TrainerStopped("stopped while the database was away")

    def _run(self) -> None:
        told, beaten, away = self._noted, time.monotonic(), False
        while not self._done.wait(min(PROGRESS_SECONDS, self._beat_seconds)):
            noted = self._noted
            if noted == told and time.monotonic() - beaten < self._beat_seconds:
                continue
            try:
                self._report(noted)
            except ClaimLost:
                self._lost.set()
                return
            except Exception as error:  # The database may be away for a moment: the next beat tries again.
                if not away:
                    logger.warning("heartbeat of batch %s: %s", self._claimed.batch.batch_id, in_words(error))
                away = True
            else:
                told, beaten, away = noted, time.monotonic(), False

    def _report(self, noted: tuple[float, str], status: str | None = None) -> None:
        progress, stage = noted
        batch, token = self._claimed.batch, self._claimed.token
        self._context.work(batches.report, batch.id, token, progress=progress, stage=stage, status=status)


def train_next(context: JobContext) -> str | None:
    """Take a queued batch, if there is one, and see it through. Returns its id."""
    claimed = context.work(batches.claim_next, worker=context.worker)
    if claimed is None:
        return None
    batch = claimed.batch
    logger.info("batch %s: training, attempt %d", batch.batch_id, batch.attempt)
    try:
        with Claim(context, claimed) as claim:
            version = _see_through(context, claimed, claim)
        logger.info("batch %s became version %s", batch.batch_id, version.version)
        if batch.recipe not in GENERATIVE:
            _suspect(context, claimed, version)
        if batch.auto_extract_keywords:
            _mine(context, claimed.domain.name)
    except ClaimLost:
        logger.warning("batch %s was given up for lost; what was trained is dropped", batch.batch_id)
    except TrainerStopped:
        if claim.lost:
            logger.warning("batch %s was given up for lost; its trainer was stopped", batch.batch_id)
        else:
            context.work(batches.requeue, batch.id, claimed.token)
            logger.info("batch %s was given back", batch.batch_id)
    except (TrainerFailed, proving.NotProven) as error:
        _fail(context.work, claimed, str(error))
    except Exception as error:
        logger.warning("batch %s: %s", batch.batch_id, in_words(error), exc_info=not is_of_database(error))
        _fail(context.work, claimed, in_words(error))
    return batch.batch_id


def _mine(context: JobContext, domain: str) -> None:
    """Look for keyword rules in what was just trained on. The batch is done: no failure here is one of it."""
    from jobs.mine_keywords import mine_domain

    try:
        mine_domain(context, domain)
    except Exception as error:
        logger.warning("mining of domain %s failed: %s", domain, in_words(error), exc_info=not is_of_database(error))


def _suspect(context: JobContext, claimed: batches.Claimed, version: ModelVersion) -> None:
    """Look for labels that look wrong. The batch is done: no failure here is one of it."""
    from jobs.suspect_labels import suspect_labels

    try:
        waiting = suspect_labels(context, claimed, version)
    except TrainerStopped as error:
        logger.info("version %s: %s", version.version, error)
    except Exception as error:
        logger.warning(
            "version %s: labels were not doubted: %s",
            version.version,
            in_words(error),
            exc_info=not is_of_database(error),
        )
    else:
        if waiting is not None:
            logger.info("version %s: %d labels wait for a review", version.version, waiting)


def _fail(work: UnitOfWork, claimed: batches.Claimed, reason: str) -> None:
    logger.warning("batch %s failed: %s", claimed.batch.batch_id, reason)
    work(batches.fail, claimed.batch.id, claimed.token, error=reason)


def _see_through(context: JobContext, claimed: batches.Claimed, claim: Claim) -> ModelVersion:
    items = claim.patiently(lambda: context.work.read(batches.items, claimed.batch.id))
    folder = context.store.local / WORKSHOP / f"{claimed.batch.batch_id}-{claimed.token[:8]}"
    folder.mkdir(parents=True)
    try:
        spec = claim.patiently(lambda: _write_spec(context, claimed, items, folder))
        train(
            claimed.batch.recipe,
            spec,
            folder / "artifact",
            progress=lambda progress, stage: claim.note(progress * TRAINER_SHARE, stage),
            wanted=lambda: claim.wanted,
            timeout_seconds=context.settings.train_timeout_seconds,
            memory_mb=context.settings.train_memory_mb,
        )
        claim.enter("evaluating", TRAINER_SHARE, "proving")
        measured = read_measured(folder / "artifact")
        digest = claim.patiently(lambda: context.store.publish(folder / "artifact"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    prove = generative_proving.prove if claimed.batch.recipe in GENERATIVE else proving.prove
    proof = claim.patiently(lambda: prove(context, claimed, items, digest))
    proof = replace(proof, evaluation={**proof.evaluation, **measured})
    if not claim.wanted:
        raise TrainerStopped("stopped before the version was registered")
    return claim.patiently(lambda: context.work(versions.register, claimed, proof))


def _write_spec(
    context: JobContext, claimed: batches.Claimed, items: Sequence[batches.LabelledText], folder: Path
) -> Path:
    # A label that left since the batch was opened is still the label of what it froze.
    labels = context.work.read(taxonomy.to_train, claimed.domain.id, {item.label_id for item in items})
    stands_on = _stands_on(context, claimed)
    known = _known_to_parent(claimed, stands_on)
    with (folder / "examples.jsonl").open("w", encoding="utf-8") as file:
        for item in items:
            if item.role != "gold":
                new = item.role == "new" if known is None else item.text_id not in known
                row = {"text_id": item.text_id, "text": item.text, "label": item.label_id, "new": new}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    spec: dict[str, Any] = {
        "recipe": claimed.batch.recipe,
        "labels": [{"id": label.id, "path": label.path} for label in labels],
        "examples": "examples.jsonl",
        "references": proving.reference_texts(labels),
        "config": _settings_of(claimed),
        "seed": 0,
        "taxonomy_digest": claimed.domain.taxonomy_digest or "",
        "items_digest": claimed.batch.items_digest,
        **stands_on,
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    return path


def _stands_on(context: JobContext, claimed: batches.Claimed) -> dict[str, Any]:
    """What a recipe with a pretrained model starts from, goes on from, and need not compute again.

    Raises:
        TrainerFailed: the base model is not on this machine.
    """
    if claimed.batch.recipe not in {*WITH_BASE, IMPORTED}:
        return {}
    # A batch may name another than its domain: the two routes of one domain stand on different ones.
    name = str(claimed.batch.config.get(BASE_MODEL) or claimed.domain.base_model or "")
    try:
        folder = base_models.find(name, context.settings.bases)
    except base_models.BaseModelUnusable as error:
        raise TrainerFailed(str(error)) from error
    cache = context.settings.training_cache / claimed.domain.name
    cache.mkdir(parents=True, exist_ok=True)
    parent = None
    if claimed.batch.recipe in CONTINUING:
        predecessor = versions.generative if claimed.batch.recipe in GENERATIVE else versions.active
        parent = context.work.read(predecessor, claimed.domain)
    return {
        "base": {"name": name, "folder": str(folder)},
        "parent": _parent(context, parent) if parent is not None else None,
        "cache": str(cache),
    }


def _settings_of(claimed: batches.Claimed) -> dict[str, Any]:
    """What the recipe itself is told of the batch's config."""
    config = dict(claimed.batch.config)
    if claimed.batch.recipe in WITH_BASE:
        config.pop(BASE_MODEL, None)
    return config


def _known_to_parent(claimed: batches.Claimed, stands_on: Mapping[str, Any]) -> set[int] | None:
    """The texts that the generative parent was trained on; None where the batch itself says what is new.

    Its batches use no labels up, so only the parent knows which of them it has seen.
    """
    if claimed.batch.recipe not in GENERATIVE or stands_on.get("parent") is None:
        return None
    try:
        return set(read_lineage(Path(stands_on["parent"])))
    except ArtifactUnusable:
        return None


def _parent(context: JobContext, parent: ModelVersion) -> str | None:
    """The artifact that serves now. One that is gone must not stop the loop: training then starts from the base."""
    try:
        folder = context.store.fetch(parent.artifact_digest)
        verify(folder, parent.artifact_digest)
    except (ArtifactUnusable, OSError) as error:
        logger.warning("version %s cannot be gone on from: %s", parent.version, error)
        return None
    return str(folder)
