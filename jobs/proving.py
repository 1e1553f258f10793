"""Prove a finished artifact by what will be served: its own bytes, its reference answers, gold, and the gate."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.db.tables import Label, ModelVersion
from app.intent.arrays import FloatArray, IntArray
from app.intent.calibration import fit_threshold
from app.intent.evaluation import Evaluation, evaluate, macro_f1
from app.intent.gate import FirstProof, GateDecision, Rival, judge, judge_first
from app.scorers import load_scorer
from app.scorers.artifact import (
    ArtifactCorrupt,
    Manifest,
    OutOfFold,
    check_reference_answers,
    read_out_of_fold,
    verify,
)
from app.services import batches, domains, versions
from app.services.versions import Proof
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


class NotProven(Exception):
    """The trainer's artifact is not one: its bytes, its labels or its answers are wrong."""


@dataclass(frozen=True, slots=True)
class Gold:
    """The held-out texts of a batch with their labels, shape (n,)."""

    texts: Sequence[str]
    truth: IntArray


def reference_texts(labels: Sequence[Label]) -> list[str]:
    """Texts by which an artifact is recognised: label names and our own sentences, never what a user asked."""
    names = [label.path for label in labels]
    return [*names[: REFERENCE_TEXTS // 2], *SENTENCES][:REFERENCE_TEXTS]


def prove(context: JobContext, claimed: batches.Claimed, items: Sequence[batches.LabelledText], digest: str) -> Proof:
    """Measure the artifact of this digest on the batch's gold, and let the gate judge it.

    Raises:
        NotProven: it cannot be served at all.
    """
    folder = context.settings.artifacts / digest
    try:
        manifest = verify(folder, digest)
        scorer = load_scorer(folder)
        check_reference_answers(scorer, folder)
        out_of_fold = read_out_of_fold(folder)
    except ArtifactCorrupt as error:
        raise NotProven(f"the trainer's artifact is not usable: {error}") from error
    release = context.work.read(domains.release, claimed.domain.id)
    if unknown := [label_id for label_id in scorer.label_ids if label_id not in release.paths]:
        raise NotProven(f"the trainer's artifact names labels that the domain never had: {unknown[:5]}")
    gold = _gold(items)
    rng = np.random.default_rng(claimed.batch.id)
    held_out = out_of_fold.probabilities
    threshold = fit_threshold(held_out.max(axis=1), _best(held_out, manifest.label_ids) == out_of_fold.label_ids)
    answers = scorer.probabilities(gold.texts) if gold.texts else np.zeros((0, len(scorer.label_ids)))
    on_gold = evaluate(gold.truth, answers, scorer.label_ids, threshold=threshold, rng=rng)
    beside = evaluate(out_of_fold.label_ids, held_out, manifest.label_ids, threshold=threshold, rng=rng, resamples=200)
    decision = _judge(context, claimed, gold, _best(answers, scorer.label_ids), out_of_fold, manifest, rng)
    return Proof(
        artifact_digest=digest,
        model_path=str(folder),
        evaluation={
            "gold": _named(on_gold, release.paths),
            "out_of_fold": _named(beside, release.paths),
            "gate": decision.as_json(),
            "left_out_labels": [release.paths[label_id] for label_id in manifest.left_out_label_ids],
        },
        threshold=threshold,
        temperature=manifest.temperature,
        train_count=manifest.text_count,
        passed=decision.passed,
        reasons=decision.reasons if not decision.passed else (),
    )


def _gold(items: Sequence[batches.LabelledText]) -> Gold:
    held_out = [item for item in items if item.role == "gold"]
    return Gold([item.text for item in held_out], np.array([item.label_id for item in held_out], dtype=np.int64))


def _best(probabilities: FloatArray, label_ids: Sequence[int]) -> IntArray:
    if len(probabilities) == 0:
        return np.zeros(0, dtype=np.int64)
    best: IntArray = np.asarray(label_ids, dtype=np.int64)[probabilities.argmax(axis=1)]
    return best


def _judge(
    context: JobContext,
    claimed: batches.Claimed,
    gold: Gold,
    predicted: IntArray,
    out_of_fold: OutOfFold,
    manifest: Manifest,
    rng: np.random.Generator,
) -> GateDecision:
    rivals = _rivals(context, claimed, gold)
    if rivals:
        return judge(gold.truth, predicted, rivals, rng)
    truth = out_of_fold.label_ids
    guessed = _best(out_of_fold.probabilities, manifest.label_ids)
    labels, counts = np.unique(truth, return_counts=True)
    majority = np.full(len(truth), labels[counts.argmax()])
    return judge_first(
        FirstProof(
            accuracy=float((guessed == truth).mean()),
            macro_f1=macro_f1(truth, guessed),
            majority_accuracy=float((majority == truth).mean()),
            majority_macro_f1=macro_f1(truth, majority),
        ),
        len(gold.texts),
    )


def _rivals(context: JobContext, claimed: batches.Claimed, gold: Gold) -> list[Rival]:
    """What serves now, then the best that ever served: small losses must not add up flip by flip."""
    served = context.work.read(versions.activated, claimed.domain.id)
    active = [version for version in served if version.is_active]
    best = sorted((version for version in served if not version.is_active), key=_recorded, reverse=True)[:1]
    rivals = []
    for version in [*active, *best]:
        folder = context.settings.artifacts / version.artifact_digest
        try:
            verify(folder, version.artifact_digest)
            scorer = load_scorer(folder)
        except (ArtifactCorrupt, OSError) as error:
            # A rival that is gone cannot stand against the candidate, and must not stop the loop.
            logger.warning("version %s cannot be compared with: %s", version.version, error)
            continue
        answers = scorer.probabilities(gold.texts) if gold.texts else np.zeros((0, len(scorer.label_ids)))
        rivals.append(Rival(version.version, _best(answers, scorer.label_ids)))
    return rivals


def _recorded(version: ModelVersion) -> float:
    return float(((version.evaluation.get("gold") or {}).get("macro_f1") or {}).get("value") or 0.0)


def _named(evaluation: Evaluation, paths: Mapping[int, str]) -> dict[str, Any]:
    """The evaluation with the labels' paths beside their ids, for people."""
    shown = evaluation.as_json()
    shown["labels"] = [{**label, "label": paths.get(label["label_id"])} for label in shown["labels"]]
    shown["confusions"] = [[paths.get(true), paths.get(given), times] for true, given, times in evaluation.confusions]
    return shown
