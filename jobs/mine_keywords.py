"""Mine keyword rules from what people labelled, let the policy decide about them, and retire those that fail."""

import logging
from collections import Counter
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy.orm import Session

from app.db.session import database_lock
from app.errors import ExtractionRunning, NoTexts
from app.intent.mining import mine_rules
from app.intent.rule_evidence import MiningOptions
from app.services import audit, domains, mining, rule_usage
from app.services.audit import Actor
from jobs.context import JobContext

logger = logging.getLogger(__name__)

MIN_CONFIDENCE: Final = 0.8
LIMIT: Final = 1000
CLOCK: Final = "clock"
# The clock waits for whoever mines the same domain; a person is told instead.
CLOCKS_PATIENCE_SECONDS: Final = 600.0


def mine_keywords(context: JobContext) -> dict[str, Any]:
    """Mine every domain, and say what became of its rules in all of them together."""
    totals: Counter[str] = Counter()
    for domain in context.work.read(domains.listing):
        if context.stopping.is_set():
            break
        try:
            found = mine_domain(context, domain.name)
        except (NoTexts, ExtractionRunning) as error:
            logger.info("domain %s is not mined: %s", domain.name, error)
            continue
        totals.update({name: count for name, count in found.items() if isinstance(count, int)})
    return dict(totals)


def mine_domain(
    context: JobContext,
    domain_name: str,
    *,
    min_confidence: float = MIN_CONFIDENCE,
    limit: int = LIMIT,
    by: Actor | None = None,
    patience_seconds: float = CLOCKS_PATIENCE_SECONDS,
) -> dict[str, Any]:
    """Mine one domain: counts by their names, and `rule_ids`.

    `by` is the person who asked for it, for the audit trail; None: the clock.

    Raises:
        DomainNotFound.
        NoTexts: the domain keeps no text, and nothing was imported.
        ExtractionRunning: another process mines this domain, and still does after so many seconds.
    """
    domain = context.work.read(domains.find, domain_name)
    options = MiningOptions(min_confidence=min_confidence, limit=limit)
    try:
        with database_lock(context.work.engine, f"intentloop-mine-{domain.id}", timeout_seconds=patience_seconds):
            material = context.work.read(mining.material, domain)
            # Outside of any transaction: it takes seconds.
            found = mine_rules(material.texts, material.label_ids, user_words=material.user_words, options=options)

            def store(session: Session) -> dict[str, Any]:
                return _store(session, domain_name, found, material, by)

            return context.work(store)
    except TimeoutError as error:
        raise ExtractionRunning(f"rules of domain {domain_name!r} are being mined by another process") from error


def _store(session: Session, name: str, found: Any, material: mining.Material, by: Actor | None) -> dict[str, Any]:
    domain = domains.locked(session, name)
    stored = mining.store_mined(
        session, domain, found, material.question_ids, created_by=by.name if by is not None else CLOCK
    )
    failed = rule_usage.retire_failing(session, domain)
    counts = asdict(stored) | {"retired": stored.retired + len(failed), "rule_ids": list(stored.rule_ids)}
    if by is not None:
        noted = {name: count for name, count in counts.items() if name != "rule_ids"}
        audit.note(session, by, "rules.mine", f"domain {domain.name}", domain_id=domain.id, after=noted)
    return counts


def retire_failing(context: JobContext) -> list[int]:
    """Retire the failing rules of every domain without mining, and give their ids: quick, for any minute."""
    retired: list[int] = []
    for domain in context.work.read(domains.listing):
        if context.work.read(rule_usage.has_failing, domain.id):
            retired += context.work(_retire, domain.name)
    return retired


def _retire(session: Session, name: str) -> list[int]:
    return list(rule_usage.retire_failing(session, domains.locked(session, name)))
