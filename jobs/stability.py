"""Compare what a candidate and the version that serves answer to one fixed sample of texts without gold labels."""

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import ModelVersion
from app.intent.cascade import Tier
from app.intent.stability import cohens_kappa
from app.scorers import load_scorer
from app.scorers.artifact import verify
from app.services import batches, domains, rule_sets, versions, worth
from jobs.answering import answer, cascade
from jobs.context import JobContext
from jobs.reasons import in_words, is_of_database

logger = logging.getLogger(__name__)


def beside_the_active(context: JobContext, claimed: batches.Claimed, candidate: Sequence[Tier]) -> dict[str, Any]:
    """`{"stability": {"kappa", "sample", "against"}}` for an evaluation; empty where there is nothing to compare.

    It is no part of the proof: when it fails, the candidate is judged without it.
    """
    try:
        active, texts = context.work.read(_read, claimed.domain.name)
        if active is None or not texts:
            return {}
        folder = context.store.fetch(active.artifact_digest)
        verify(folder, active.artifact_digest)
        paired, rules = context.work.read(rule_sets.last_pairing, active)
        serving = cascade(load_scorer(folder), active.version, rules, paired)
        before, after = (answer(tiers, texts, paired.threshold).predicted for tiers in (serving, candidate))
    except Exception as error:
        logger.warning(
            "domain %s: the candidate was not compared with what serves: %s",
            claimed.domain.name,
            in_words(error),
            exc_info=not is_of_database(error),
        )
        return {}
    kappa = round(cohens_kappa(before, after), 4)
    return {"stability": {"kappa": kappa, "sample": len(texts), "against": active.version}}


def _read(session: Session, name: str) -> tuple[ModelVersion | None, list[str]]:
    domain = domains.find(session, name)
    active = versions.active(session, domain)
    return active, worth.sample(session, domain.id) if active is not None else []
