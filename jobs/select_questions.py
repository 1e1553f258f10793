"""Choose what people are asked: score the waiting texts with the version that serves, and draw gold uniformly."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from app.db.tables import Domain
from app.intent.cascade import Tier, decide_many
from app.intent.releases import Release
from app.intent.text import MaskedText
from app.scorers import load_scorer
from app.scorers.artifact import ArtifactCorrupt, verify
from app.services import domains, selection
from app.services.activations import Pairing
from jobs.answering import cascade
from jobs.context import JobContext

logger = logging.getLogger(__name__)

PAGE = 500
TOPK = 5


def select_questions(context: JobContext) -> dict[str, Any]:
    """Refresh every domain's queue, and say how many texts were scored and drawn."""
    scored = gold_drawn = 0
    not_scored: list[str] = []
    for domain in context.work.read(domains.listing):
        if not domain.keep_text:
            continue
        try:
            scored += _rescore(context, context.work.read(domains.release, domain.id))
        except (ArtifactCorrupt, OSError) as error:
            # One domain's broken artifact must stop neither the others nor its own gold.
            logger.warning("the queue of domain %s keeps its order: %s", domain.name, error)
            not_scored.append(domain.name)
        gold_drawn += context.work(_draw, domain.name, context.settings.selection_size).drawn
    return {"scored": scored, "gold_drawn": gold_drawn, "not_scored": not_scored}


def _draw(session: Session, name: str, size: int) -> selection.Draw:
    domain: Domain = domains.locked(session, name)
    return selection.draw_gold(session, domain, size=size, rng=np.random.default_rng())


def _rescore(context: JobContext, release: Release) -> int:
    """Stream the texts that another version answered through this one, a page at a time."""
    version, digest = release.version, release.artifact_digest
    if version is None or digest is None:
        return 0
    tiers: Sequence[Tier] = ()
    scored = after = 0
    while not context.stopping.is_set():
        page = context.work.read(selection.stale, release.state.domain_id, version, limit=PAGE, after=after)
        if not page:
            return scored
        # Loaded when there is something to score: most runs find nothing.
        tiers = tiers or _load(context.store.fetch(digest), digest, release)
        topk = _topk(tiers, [text.text for text in page], release)
        scored += context.work(selection.rescore, page, topk, version=version)
        after = page[-1].text_id
    return scored


def _load(folder: Path, digest: str, release: Release) -> tuple[Tier, ...]:
    verify(folder, digest)
    pairing = Pairing(release.threshold, release.rule_set_revision, release.fusion)
    return cascade(load_scorer(folder), release.version or "", release.rules, pairing)


def _topk(tiers: Sequence[Tier], texts: Sequence[str], release: Release) -> list[list[list[Any]]]:
    """The best labels of each text by their paths of today, as the log holds them."""
    decisions = decide_many([MaskedText(text) for text in texts], tiers, release.threshold)
    return [
        [[release.paths[label_id], round(probability, 6)] for label_id, probability in decision.topk[:TOPK]]
        for decision in decisions
    ]
