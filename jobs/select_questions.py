"""Choose what people are asked: score the waiting texts with the version that serves, select a mix, draw gold."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from app.db.tables import Domain
from app.intent.cascade import Tier, decide_many
from app.intent.releases import Release
from app.intent.selection_mix import Chosen, choose
from app.intent.selection_reasons import reason
from app.intent.text import MaskedText
from app.scorers import load_scorer
from app.scorers.artifact import ArtifactUnusable, Scorer, verify
from app.services import domains, mix_selection, selection
from app.services.activations import Pairing
from app.services.mix_selection import Plan, Selected
from jobs.answering import cascade
from jobs.context import JobContext
from jobs.group_texts import group_texts
from jobs.selection_pool import Gathered, gather

logger = logging.getLogger(__name__)

PAGE = 500
TOPK = 5


def select_questions(context: JobContext) -> dict[str, Any]:
    """Refresh every domain's queue, and say how many texts were scored, selected and drawn."""
    scored = selected = gold_drawn = 0
    not_scored: list[str] = []
    for domain in context.work.read(domains.listing):
        if not domain.keep_text:
            continue
        group_texts(context, domain)
        # Before the waiting texts are scored: what people say of gold is said of the version that serves.
        gold_drawn += context.work(_draw, domain.name, context.settings.selection_size)
        try:
            release = context.work.read(domains.release, domain.id)
            artifact = _Artifact(context, release)
            scored += _rescore(context, release, artifact)
            made = context.work.read(_plan, domain.id, context)
            chosen = _choose(context, made, release, artifact) if made is not None else None
        except (ArtifactUnusable, OSError) as error:
            # One domain's broken artifact must stop neither the others nor its own gold.
            logger.warning("the queue of domain %s keeps its order: %s", domain.name, error)
            not_scored.append(domain.name)
            continue
        if made is not None and chosen is not None:
            placed, drawn = context.work(_place, domain.name, made, chosen, release.version)
            selected += placed
            gold_drawn += drawn
    return {"scored": scored, "selected": selected, "gold_drawn": gold_drawn, "not_scored": not_scored}


def _draw(session: Session, name: str, size: int) -> int:
    domain: Domain = domains.locked(session, name)
    return selection.draw_gold(session, domain, size=size, rng=np.random.default_rng()).drawn


def _plan(session: Session, domain_id: int, context: JobContext) -> Plan | None:
    domain = session.get_one(Domain, domain_id)
    settings = context.settings
    return mix_selection.plan(session, domain, size=settings.selection_size, most=settings.selection_candidates)


def _place(session: Session, name: str, made: Plan, chosen: Sequence[Selected], version: str | None) -> tuple[int, int]:
    """Put the selection into the queue and spread gold over it, in one short transaction: how many of each are new."""
    placed = mix_selection.place(session, domains.locked(session, name), made, chosen, version=version)
    return placed or 0, _draw(session, name, made.seen["size"])


class _Artifact:
    """What the domain serves, loaded when it is first needed: most runs find nothing to score and nothing to choose."""

    def __init__(self, context: JobContext, release: Release) -> None:
        self._context = context
        self._release = release
        self._scorer: Scorer | None = None

    def scorer(self) -> Scorer | None:
        """The model; None while rules answer alone, or nobody."""
        digest = self._release.artifact_digest
        if self._scorer is None and digest is not None:
            folder = self._context.store.fetch(digest)
            verify(folder, digest)
            self._scorer = load_scorer(folder)
        return self._scorer

    def tiers(self) -> tuple[Tier, ...]:
        """The whole cascade, as it serves."""
        release = self._release
        pairing = Pairing(release.threshold, release.rule_set_revision, release.fusion)
        return cascade(self.scorer(), release.version or "", release.rules, pairing)


def _rescore(context: JobContext, release: Release, artifact: _Artifact) -> int:
    """Stream the texts that another version answered through this one, a page at a time."""
    version = release.version
    if version is None or release.artifact_digest is None:
        return 0
    tiers: Sequence[Tier] = ()
    scored = after = 0
    while not context.stopping.is_set():
        page = context.work.read(selection.stale, release.state.domain_id, version, limit=PAGE, after=after)
        if not page:
            return scored
        tiers = tiers or artifact.tiers()
        topk = _topk(tiers, [text.text for text in page], release)
        scored += context.work(selection.rescore, page, topk, version=version)
        after = page[-1].text_id
    return scored


def _topk(tiers: Sequence[Tier], texts: Sequence[str], release: Release) -> list[list[list[Any]]]:
    """The best labels of each text by their paths of today, as the log holds them."""
    decisions = decide_many([MaskedText(text) for text in texts], tiers, release.threshold)
    return [
        [[release.paths[label_id], round(probability, 6)] for label_id, probability in decision.topk[:TOPK]]
        for decision in decisions
    ]


def _choose(context: JobContext, made: Plan, release: Release, artifact: _Artifact) -> list[Selected] | None:
    """Let the mix choose, outside of any transaction; None when the process is asked to stop, or it was flipped."""
    if made.epoch != release.state.epoch:
        return None
    rng = np.random.default_rng()
    gathered = gather(context, made, release, artifact.scorer() if made.candidates else None, rng)
    if gathered is None:
        return None
    return [_told(gathered, made, chosen) for chosen in choose(gathered.pool, made.mix, made.room, rng)]


def _told(gathered: Gathered, made: Plan, chosen: Chosen) -> Selected:
    text_id = gathered.text_ids[chosen.row]
    drawn = 1.0
    if chosen.probability is not None:
        drawn = chosen.probability * gathered.share * made.candidates[text_id]
    why = reason(chosen, gathered.labels, int(gathered.pool.counts[chosen.row]))
    return Selected(text_id, chosen.strategy, why, drawn)
