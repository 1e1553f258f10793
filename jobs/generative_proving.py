"""Prove an artifact of the generative tier: alone among all labels, and beside the version that it is asked after."""

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from app.artifacts.store import ArtifactUnavailable
from app.db.tables import ModelVersion
from app.intent.arrays import IntArray
from app.intent.cascade import Decision, decide_further, decide_many
from app.intent.evaluation import evaluate_answers, macro_f1
from app.intent.gate import FirstProof, GateDecision, Rival, judge, judge_first
from app.intent.text import MaskedText
from app.scorers import load_scorer
from app.scorers.artifact import (
    ArtifactUnusable,
    Manifest,
    OutOfFold,
    check_reference_answers,
    read_out_of_fold,
    verify,
)
from app.scorers.generative import GenerativeScorer
from app.scorers.generative_tier import FEW_CANDIDATES, GenerativeTier
from app.scorers.generative_wire import GenerativeUnavailable
from app.services import batches, domains, rule_sets, versions
from app.services.versions import Proof
from jobs import pairing
from jobs.answering import NO_LABEL, Answers, Gold, cascade
from jobs.context import JobContext
from jobs.proving import NotProven, gold_of, named
from jobs.trainer_process import TrainerStopped

logger = logging.getLogger(__name__)

FORM = "generative"
MOST_GOLD = 300
"""Gold texts that are judged, a uniform draw where there are more: each is a run of the model for every label."""

AT_ONCE = 8


def prove(context: JobContext, claimed: batches.Claimed, items: Sequence[batches.LabelledText], digest: str) -> Proof:
    """Measure a generative artifact on the batch's gold, through a process as it will serve, and let the gate judge it.

    Two questions are asked: is it a worse judge among all labels than the generative version before (or no better than
    the most frequent label), and do answers get worse when the active version's unsure ones are asked again.

    Raises:
        NotProven: it cannot be served at all.
        TrainerStopped: the clock shuts down.
    """
    try:
        folder = context.store.fetch(digest)
        manifest = verify(folder, digest)
        scorer = _loaded(context, digest)
        check_reference_answers(scorer, folder)
        out_of_fold = read_out_of_fold(folder)
        return _prove(context, claimed, items, digest, manifest, scorer, out_of_fold)
    except (ArtifactUnusable, GenerativeUnavailable) as error:
        raise NotProven(f"the trainer's artifact is not usable: {error}") from error


def _prove(
    context: JobContext,
    claimed: batches.Claimed,
    items: Sequence[batches.LabelledText],
    digest: str,
    manifest: Manifest,
    scorer: GenerativeScorer,
    out_of_fold: OutOfFold,
) -> Proof:
    release = context.work.read(domains.release, claimed.domain.id)
    if unknown := [label_id for label_id in scorer.label_ids if label_id not in release.paths]:
        raise NotProven(f"the trainer's artifact names labels that the domain never had: {unknown[:5]}")
    rng = np.random.default_rng(claimed.batch.id)
    gold = drawn(gold_of(items), rng)
    # It judges without the rules: they are the other route's, and their verdict is in what it is asked after.
    fitted = pairing.fit(out_of_fold, manifest.label_ids, texts={}, rules=(), revision=None)
    threshold, held_out = fitted.pairing.threshold, fitted.out_of_fold
    alone = _alone(context, scorer, gold)
    beside = evaluate_answers(
        out_of_fold.label_ids, held_out.predicted, held_out.confidence, threshold=threshold, rng=rng, resamples=200
    )
    decision = _judged_alone(context, claimed, gold, alone, out_of_fold, held_out, rng)
    again = _asked_again(context, claimed, scorer, gold, rng)
    passed = decision.passed and (again is None or again[0].passed)
    against = [*(() if decision.passed else decision.reasons), *(again[0].reasons if again and not passed else ())]
    return Proof(
        artifact_digest=digest,
        model_path=context.store.location(digest),
        evaluation={
            "gold": named(
                evaluate_answers(gold.truth, alone.predicted, alone.confidence, threshold=threshold, rng=rng),
                release.paths,
            ),
            "out_of_fold": named(beside, release.paths),
            "gate": decision.as_json(),
            "left_out_labels": [release.paths[label_id] for label_id in manifest.left_out_label_ids],
            **({"asked_again": again[1]} if again is not None else {}),
        },
        pairing=fitted.pairing,
        temperature=manifest.temperature,
        train_count=manifest.text_count,
        passed=passed,
        reasons=against,
    )


def drawn(gold: Gold, rng: np.random.Generator, most: int = MOST_GOLD) -> Gold:
    """All of it, or a uniform draw of so many texts, in their order."""
    if len(gold.texts) <= most:
        return gold
    places = np.sort(rng.choice(len(gold.texts), size=most, replace=False))
    return Gold([gold.texts[place] for place in places.tolist()], gold.truth[places])


def _loaded(context: JobContext, digest: str) -> GenerativeScorer:
    folder = context.store.fetch(digest)
    form = verify(folder, digest).scorer
    if form != FORM:
        raise NotProven(f"the trainer's artifact has the form {form[:40]!r}, and this recipe makes {FORM!r}")
    return cast(GenerativeScorer, load_scorer(folder, bases=context.settings.bases))


def _alone(context: JobContext, scorer: GenerativeScorer, gold: Gold) -> Answers:
    """What it answers when nobody else is asked."""
    predicted = np.full(len(gold.texts), NO_LABEL, dtype=np.int64)
    confidence = np.zeros(len(gold.texts))
    for first in range(0, len(gold.texts), AT_ONCE):
        _refuse_stopped(context)
        part = slice(first, first + AT_ONCE)
        probabilities = scorer.probabilities(gold.texts[part])
        predicted[part] = np.asarray(scorer.label_ids)[probabilities.argmax(axis=1)]
        confidence[part] = probabilities.max(axis=1)
    return Answers(predicted, confidence)


def _judged_alone(
    context: JobContext,
    claimed: batches.Claimed,
    gold: Gold,
    alone: Answers,
    out_of_fold: OutOfFold,
    held_out: Answers,
    rng: np.random.Generator,
) -> GateDecision:
    former = context.work.read(versions.generative, claimed.domain)
    if former is not None and (rival := _rival(context, former, gold)) is not None:
        return judge(gold.truth, alone.predicted, [rival], rng)
    return judge_first(_first_proof(out_of_fold, held_out), len(gold.texts))


def _rival(context: JobContext, former: ModelVersion, gold: Gold) -> Rival | None:
    try:
        return Rival(former.version, _alone(context, _loaded(context, former.artifact_digest), gold).predicted)
    except (ArtifactUnusable, ArtifactUnavailable, GenerativeUnavailable, OSError) as error:
        # One that is gone cannot stand against the candidate, and must not stop the loop.
        logger.warning("version %s cannot be compared with: %s", former.version, error)
        return None


def _first_proof(out_of_fold: OutOfFold, held_out: Answers) -> FirstProof:
    truth = out_of_fold.label_ids
    labels, counts = np.unique(truth, return_counts=True)
    majority = np.full(len(truth), labels[counts.argmax()])
    return FirstProof(
        accuracy=float((held_out.predicted == truth).mean()),
        macro_f1=macro_f1(truth, held_out.predicted),
        majority_accuracy=float((majority == truth).mean()),
        majority_macro_f1=macro_f1(truth, majority),
    )


def _asked_again(
    context: JobContext, claimed: batches.Claimed, scorer: GenerativeScorer, gold: Gold, rng: np.random.Generator
) -> tuple[GateDecision, dict[str, Any]] | None:
    """What the domain would answer with this version asked again, beside what it answers without.

    None where there is no gold, or no active version.
    """
    active = context.work.read(versions.active, claimed.domain)
    if active is None or not gold.texts:
        return None
    try:
        folder = context.store.fetch(active.artifact_digest)
        verify(folder, active.artifact_digest)
        model = load_scorer(folder)
    except (ArtifactUnusable, OSError) as error:
        logger.warning("version %s cannot be asked first: %s", active.version, error)
        return None
    paired, rules = context.work.read(rule_sets.last_pairing, active)
    texts = [MaskedText(text) for text in gold.texts]
    before = decide_many(texts, cascade(model, active.version, rules, paired), paired.threshold)
    after = _further(context, scorer, texts, before, paired.threshold)
    was, now = _predicted(before), _predicted(after)
    decision = judge(gold.truth, now, [Rival(f"{active.version} alone", was)], rng)
    unsure = np.array([found.trigger_check for found in before])
    return decision, {
        "beside": active.version,
        "asked": int(unsure.sum()),
        "right_before": int((unsure & (was == gold.truth)).sum()),
        "right_after": int((unsure & (now == gold.truth)).sum()),
        "to_person_before": int(unsure.sum()),
        "to_person_after": sum(found.trigger_check for found in after),
        "macro_f1_before": macro_f1(gold.truth, was),
        "macro_f1_after": macro_f1(gold.truth, now),
        "gate": decision.as_json(),
    }


def _further(
    context: JobContext,
    scorer: GenerativeScorer,
    texts: Sequence[MaskedText],
    before: Sequence[Decision],
    threshold: float,
) -> list[Decision]:
    """The tier as a service asks it, of one text after the other. Who abstained there abstains here, too."""
    tier = GenerativeTier(scorer.among, scorer.label_ids, "candidate")
    after: list[Decision] = []
    for text, decision in zip(texts, before, strict=True):
        _refuse_stopped(context)
        [further] = decide_further([text], [decision], [tier], threshold)
        last = further.verdicts[-1]
        if last.tier == tier.name and last.label_id is None and last.reason != FEW_CANDIDATES:
            raise NotProven(f"the trainer's artifact gave no answer to a gold text ({last.reason})")
        after.append(further)
    return after


def _predicted(decisions: Sequence[Decision]) -> IntArray:
    labels = [NO_LABEL if decision.label_id is None else decision.label_id for decision in decisions]
    return np.array(labels, dtype=np.int64)


def _refuse_stopped(context: JobContext) -> None:
    if context.stopping.is_set():
        raise TrainerStopped("stopped while the version was proved")
