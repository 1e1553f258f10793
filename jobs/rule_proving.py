"""Prove changed rules together with the version that serves, on gold, and serve them if they do no harm."""

import logging
import time
from typing import Any

import numpy as np

from app.intent.evaluation import evaluate_answers
from app.intent.gate import Rival, judge
from app.scorers import load_scorer
from app.scorers.artifact import ArtifactUnusable, read_manifest, read_out_of_fold, verify
from app.services import domains, rule_proofs
from app.services.rule_proofs import RuleProof, Trial
from jobs import later_tier, pairing
from jobs.answering import Gold, answer, cascade
from jobs.context import JobContext
from jobs.proving import named

logger = logging.getLogger(__name__)

# A trial that could not be held, or that failed, is held again so seldom.
RETRY_SECONDS = 30.0


def prove_next(context: JobContext, tried_at: dict[str, float]) -> bool:
    """Try the rules of every domain that waits for it. `tried_at`: when one was tried in vain; kept between calls.

    True where any rules were settled.
    """
    settled = False
    for domain in context.work.read(rule_proofs.waiting):
        if time.monotonic() - tried_at.get(domain, float("-inf")) < RETRY_SECONDS:
            continue
        tried_at[domain] = time.monotonic()
        if prove_rules(context, domain) is not None:
            del tried_at[domain]
            settled = True
    return settled


def prove_rules(context: JobContext, domain_name: str) -> str | None:
    """Try the rules of a domain, and say in one word what became of them; None where there was nothing to try.

    No transaction is open while it measures. Whoever changes a rule or flips meanwhile makes the trial void, and the
    domain stays due.
    """
    tried = context.work.read(rule_proofs.trial, domain_name)
    if tried is None:
        return None
    proof = _prove(context, tried)
    if proof is None:
        return None
    activation = context.work(rule_proofs.settle, tried, proof)
    if activation is not None:
        logger.info("domain %s serves %d rules, epoch %d", tried.domain, len(tried.wanted), activation.epoch)
        return "served"
    if not proof.passed:
        logger.warning("domain %s keeps its rules: %s", tried.domain, " ".join(proof.reasons))
        return "refused"
    return "void"


def _prove(context: JobContext, tried: Trial) -> RuleProof | None:
    try:
        folder = context.store.fetch(tried.version.artifact_digest)
        verify(folder, tried.version.artifact_digest)
        scorer, manifest, out_of_fold = load_scorer(folder), read_manifest(folder), read_out_of_fold(folder)
    except (ArtifactUnusable, OSError) as error:
        logger.warning("rules of domain %s cannot be tried: %s", tried.domain, error)
        return None
    known = context.work.read(rule_proofs.texts, out_of_fold.text_ids.tolist())
    domain = context.work.read(domains.find, tried.domain)
    # The revision is given when the rules are frozen.
    fitted = pairing.fit(
        out_of_fold,
        manifest.label_ids,
        texts=known,
        rules=tried.wanted,
        revision=None,
        policy=domain.threshold_policy,
        later=later_tier.answers_of(context, domain, out_of_fold, manifest.label_ids),
    )
    labelled = context.work.read(rule_proofs.gold, tried.domain_id)
    gold = Gold([text for text, _ in labelled], np.array([label_id for _, label_id in labelled], dtype=np.int64))
    version = tried.version.version
    now = answer(cascade(scorer, version, tried.serving, tried.pairing), gold.texts, tried.pairing.threshold)
    threshold = fitted.pairing.threshold
    then = answer(cascade(scorer, version, tried.wanted, fitted.pairing), gold.texts, threshold)
    rng = np.random.default_rng(tried.version.id)
    decision = judge(gold.truth, then.predicted, [Rival(f"{version} with its rules", now.predicted)], rng)
    figures = evaluate_answers(gold.truth, then.predicted, then.confidence, threshold=threshold, rng=rng)
    paths = context.work.read(domains.release, tried.domain_id).paths
    evaluation: dict[str, Any] = {
        "gold": named(figures, paths),
        "thresholds": fitted.thresholds.as_json(),
        "gate": decision.as_json(),
        "version": version,
    }
    return RuleProof(
        threshold, fitted.pairing.fusion, evaluation, decision.passed, decision.reasons if not decision.passed else ()
    )
