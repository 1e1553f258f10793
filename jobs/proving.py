"""Prove a finished artifact by what will be served: its own bytes, its reference answers, gold, and the gate."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.db.tables import Label, ModelVersion
from app.intent.arrays import IntArray
from app.intent.evaluation import RESAMPLES, Evaluation, evaluate_answers, macro_f1
from app.intent.gate import FirstProof, GateDecision, Rival, judge, judge_first
from app.intent.releases import Release
from app.scorers import load_scorer
from app.scorers.artifact import (
    ArtifactUnusable,
    Manifest,
    OutOfFold,
    Scorer,
    check_reference_answers,
    read_out_of_fold,
    verify,
)
from app.scorers.tiers import tiers_of
from app.services import batches, domains, rule_sets, versions
from app.services.versions import Proof
from jobs import later_tier, pairing, stability
from jobs.answering import Answers, Gold, answer, cascade
from jobs.context import JobContext

logger = logging.getLogger(__name__)

REFERENCE_TEXTS = 32
# Written by us; with the names of the labels they are what an artifact must answer as it was trained to.
SENTENCES = (
    "你好", "请问怎么办", "我要投诉", "没有反应", "多少钱", "什么时候能好", "谢谢", "hello", "it does not work",
    "how do I change my address", "怎么联系人工客服", "帮我查一下订单", "设备连不上网络", "我忘记密码了",
    "钱还没有退回来", "能不能换一个新的", "cancel my order", "屏幕坏了", "声音很小", "还在保修期吗", "发票怎么开",
    "快递到哪里了", "升级以后变慢了", "where is my parcel", "???", "12345", "嗯", "不想要了", "没有收到验证码",
    "please call me back", "怎么设置", "充不进电",
)  # fmt: skip


# Only a classifier that was trained elsewhere comes without a single labelled text.
NOTHING_TO_PROVE_IT_ON = GateDecision(
    False, "weak", ("There is no labelled text to prove it on: whoever knows it may activate it by force.",)
)


class NotProven(Exception):
    """The trainer's artifact is not one: its bytes, its labels or its answers are wrong."""


def reference_texts(labels: Sequence[Label]) -> list[str]:
    """Texts by which an artifact is recognised: label names and our own sentences, never what a user asked."""
    names = [label.path for label in labels]
    return [*names[: REFERENCE_TEXTS // 2], *SENTENCES][:REFERENCE_TEXTS]


def prove(context: JobContext, claimed: batches.Claimed, items: Sequence[batches.LabelledText], digest: str) -> Proof:
    """Measure the artifact of this digest, with the rules that serve, on the batch's gold, and let the gate judge it.

    Raises:
        NotProven: it cannot be served at all.
    """
    manifest, scorer, out_of_fold = _opened(context, digest)
    release = context.work.read(domains.release, claimed.domain.id)
    if unknown := [label_id for label_id in scorer.label_ids if label_id not in release.paths]:
        raise NotProven(f"the trainer's artifact names labels that the domain never had: {unknown[:5]}")
    gold = gold_of(items)
    rng = np.random.default_rng(claimed.batch.id)
    fitted = pairing.fit(
        out_of_fold,
        manifest.label_ids,
        texts={item.text_id: item.text for item in items},
        rules=release.rules,
        revision=release.rule_set_revision,
        policy=claimed.domain.threshold_policy,
        later=later_tier.answers_of(context, claimed.domain, out_of_fold, manifest.label_ids),
    )
    threshold = fitted.pairing.threshold
    tiers = cascade(scorer, "candidate", release.rules, fitted.pairing)
    answers = answer(tiers, gold.texts, threshold)
    on_gold = _evaluated(gold.truth, answers, threshold, release, rng)
    held_out = fitted.out_of_fold
    beside = _evaluated(out_of_fold.label_ids, held_out, threshold, release, rng, resamples=200)
    rivals = _rivals(context, claimed, gold)
    decision = (
        judge(gold.truth, answers.predicted, rivals, rng)
        if rivals
        else judge_first(_first_proof(out_of_fold, held_out, items, release), len(gold.texts))
        if len(out_of_fold.label_ids)
        else NOTHING_TO_PROVE_IT_ON
    )
    return Proof(
        artifact_digest=digest,
        model_path=context.store.location(digest),
        evaluation={
            "gold": on_gold,
            "out_of_fold": beside,
            "thresholds": fitted.thresholds.as_json(),
            "gate": decision.as_json(),
            "left_out_labels": [release.paths[label_id] for label_id in manifest.left_out_label_ids],
            **_scope_on(gold, answers, scorer),
            **_beside_the_rules(scorer, release, gold),
            **stability.beside_the_active(context, claimed, tiers),
        },
        pairing=fitted.pairing,
        temperature=manifest.temperature,
        train_count=manifest.text_count,
        passed=decision.passed,
        reasons=decision.reasons if not decision.passed else (),
    )


def _opened(context: JobContext, digest: str) -> tuple[Manifest, Scorer, OutOfFold]:
    try:
        folder = context.store.fetch(digest)
        manifest = verify(folder, digest)
        scorer = load_scorer(folder)
        check_reference_answers(scorer, folder)
        return manifest, scorer, read_out_of_fold(folder)
    except ArtifactUnusable as error:
        raise NotProven(f"the trainer's artifact is not usable: {error}") from error


def _evaluated(
    truth: IntArray,
    answers: Answers,
    threshold: float,
    release: Release,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    figures = evaluate_answers(
        truth,
        answers.predicted,
        answers.confidence,
        threshold=threshold,
        rng=rng,
        resamples=resamples,
        paths=release.paths,
    )
    return named(figures, release.paths)


def gold_of(items: Sequence[batches.LabelledText]) -> Gold:
    """The held-out texts among a batch's items."""
    held_out = [item for item in items if item.role == "gold"]
    return Gold([item.text for item in held_out], np.array([item.label_id for item in held_out], dtype=np.int64))


def _scope_on(gold: Gold, answers: Answers, scorer: Scorer) -> dict[str, Any]:
    """How much of gold is taken for out of scope, though all of it has labels, and how often that is answered right."""
    scope = getattr(scorer, "scope", None)
    if scope is None or answers.out_of_scope is None:
        return {}
    flagged, right = answers.out_of_scope, answers.predicted == gold.truth
    return {
        "scope": {
            "most_flagged": scope.flagged,
            "gold_flagged": float(flagged.mean()) if len(flagged) else None,
            "gold_flagged_accuracy": float(right[flagged].mean()) if flagged.any() else None,
        }
    }


def _beside_the_rules(scorer: Scorer, release: Release, gold: Gold) -> dict[str, Any]:
    """What the model does on gold without the rules, so that people see what the rules add."""
    if not release.rules or not gold.texts:
        return {}
    alone = answer(tiers_of(scorer, "candidate"), gold.texts, 0.0)
    return {
        "rules": {
            "revision": release.rule_set_revision,
            "count": len(release.rules),
            "model_alone": {
                "macro_f1": macro_f1(gold.truth, alone.predicted),
                "accuracy": float((alone.predicted == gold.truth).mean()),
            },
        }
    }


def _first_proof(
    out_of_fold: OutOfFold, held_out: Answers, items: Sequence[batches.LabelledText], release: Release
) -> FirstProof:
    truth = out_of_fold.label_ids
    labels, counts = np.unique(truth, return_counts=True)
    majority = np.full(len(truth), labels[counts.argmax()])
    by_rules = None
    if release.rules:
        texts = {item.text_id: item.text for item in items}
        asked = [texts.get(int(text_id), "") for text_id in out_of_fold.text_ids]
        by_rules = macro_f1(truth, answer(tiers_of(None, None, rules=release.rules), asked, 0.0).predicted)
    return FirstProof(
        accuracy=float((held_out.predicted == truth).mean()),
        macro_f1=macro_f1(truth, held_out.predicted),
        majority_accuracy=float((majority == truth).mean()),
        majority_macro_f1=macro_f1(truth, majority),
        rules_macro_f1=by_rules,
    )


def _rivals(context: JobContext, claimed: batches.Claimed, gold: Gold) -> list[Rival]:
    """What serves now, then the best that ever served: small losses must not add up flip by flip.

    Each answers with the rules, the fusion and the threshold that it served with last.
    """
    served = context.work.read(versions.activated, claimed.domain.id)
    active = [version for version in served if version.is_active]
    best = sorted((version for version in served if not version.is_active), key=_recorded, reverse=True)[:1]
    rivals = []
    for version in [*active, *best]:
        try:
            folder = context.store.fetch(version.artifact_digest)
            verify(folder, version.artifact_digest)
            scorer = load_scorer(folder)
        except (ArtifactUnusable, OSError) as error:
            # A rival that is gone cannot stand against the candidate, and must not stop the loop.
            logger.warning("version %s cannot be compared with: %s", version.version, error)
            continue
        paired, rules = context.work.read(rule_sets.last_pairing, version)
        tiers = cascade(scorer, version.version, rules, paired)
        rivals.append(Rival(version.version, answer(tiers, gold.texts, paired.threshold).predicted))
    return rivals


def _recorded(version: ModelVersion) -> float:
    return float(((version.evaluation.get("gold") or {}).get("macro_f1") or {}).get("value") or 0.0)


def named(evaluation: Evaluation, paths: Mapping[int, str]) -> dict[str, Any]:
    """The evaluation with the labels' paths beside their ids, for people."""
    shown = evaluation.as_json()
    shown["labels"] = [{**label, "label": paths.get(label["label_id"])} for label in shown["labels"]]
    shown["confusions"] = [[paths.get(true), paths.get(given), times] for true, given, times in evaluation.confusions]
    return shown
