"""τ is swept over what the generative tier says about the same held-out texts, as far as both artifacts tell."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from app.db.tables import Domain, ModelVersion
from app.intent.cascade import Verdict
from app.intent.text import MaskedText
from app.scorers.artifact import OutOfFold, read_manifest, read_out_of_fold
from app.scorers.generative_tier import MOST_CANDIDATES, GenerativeTier
from app.services import domains
from jobs import pairing
from jobs.answering import NO_LABEL
from jobs.context import JobContext
from jobs.later_tier import LEAST_TEXTS, answers_of, narrowed
from tests.builders import column
from tests.jobs.test_jobs import World, context_on
from tests.jobs.test_onnx_versions import train_encoder
from tests.journeys.worlds import label_texts

LABELS = tuple(range(10, 25))


def evidence(n: int, *, first_id: int = 0, sharpness: float = 4.0, seed: int = 0) -> OutOfFold:
    """Answers over all labels; the sharper, the more of them are right."""
    truth = np.random.default_rng(1).integers(0, len(LABELS), 1_000)[:n]
    logits = np.random.default_rng(seed).normal(size=(n, len(LABELS))) * 2.0
    logits[np.arange(n), truth] += sharpness
    odds = np.exp(logits)
    return OutOfFold(np.arange(first_id, first_id + n), np.array(LABELS)[truth], odds / odds.sum(axis=1, keepdims=True))


def test_the_tier_answers_from_its_evidence_as_it_would_when_it_is_asked() -> None:
    model, tier = evidence(60), evidence(60, sharpness=8.0, seed=5)
    answers = narrowed(model, LABELS, tier, LABELS)
    assert answers is not None

    for place in range(60):
        row, said = model.probabilities[place], tier.probabilities[place]
        best = np.argsort(-row, kind="stable")
        topk = tuple((LABELS[column], float(row[column])) for column in best)

        def among(_texts, asked, said=said):  # type: ignore[no-untyped-def]
            [candidates] = asked
            assert len(candidates) == MOST_CANDIDATES
            shares = {label: said[LABELS.index(label)] for label in candidates}
            total = sum(shares.values())
            return [tuple(sorted(((label, p / total) for label, p in shares.items()), key=lambda pair: -pair[1]))]

        [verdict] = GenerativeTier(among, LABELS, "v").judge_many(
            [MaskedText("x")], [[Verdict("discriminative", topk[0][0], topk[0][1], topk)]]
        )
        assert answers.predicted[place] == verdict.label_id
        assert answers.confidence[place] == pytest.approx(verdict.confidence)


def test_texts_that_the_tier_was_trained_on_keep_the_model_s_answer() -> None:
    model, tier = evidence(200), evidence(80, first_id=120, sharpness=8.0)
    answers = narrowed(model, LABELS, tier, LABELS)
    assert answers is not None
    assert (answers.predicted[:120] == NO_LABEL).all()
    assert (answers.confidence[:120] == 0.0).all()
    assert (answers.predicted[120:] != NO_LABEL).all()


def test_too_few_texts_that_both_had_not_seen_tell_nothing() -> None:
    assert narrowed(evidence(200), LABELS, evidence(LEAST_TEXTS - 1), LABELS) is None
    assert narrowed(evidence(200), LABELS, evidence(LEAST_TEXTS), LABELS) is not None


def test_a_tier_that_knows_other_labels_says_nothing() -> None:
    answers = narrowed(evidence(60), LABELS, evidence(60), tuple(range(100, 115)))
    assert answers is not None
    assert (answers.predicted == NO_LABEL).all()


def test_a_better_tier_is_asked_more_often_than_one_that_is_no_better() -> None:
    model = evidence(1_000, sharpness=2.5)
    thresholds = {}
    for name, sharpness in (("better", 12.0), ("worse", 0.0)):
        later = narrowed(model, LABELS, evidence(1_000, sharpness=sharpness, seed=7), LABELS)
        fitted = pairing.fit(model, LABELS, texts={}, rules=(), revision=None, later=later)
        thresholds[name] = fitted.pairing.threshold
        assert fitted.thresholds.policies["sweep"].reached
    assert thresholds["better"] > thresholds["worse"]


@pytest.fixture
def context(sqlite_url: str, tmp_path: Path) -> Iterator[JobContext]:
    made = context_on(sqlite_url, tmp_path, batch_labels=10, extract_keywords=False, generative=True)
    label_texts(World(made), 20, gold=12)
    yield made
    made.work.engine.dispose()


def asked_after(context: JobContext) -> tuple[Path, bool]:
    """The folder of the version that serves, and whether the domain's generative version has a say in its τ."""
    [digest] = column(context.work, ModelVersion.artifact_digest)
    folder = context.settings.artifacts / digest
    domain = context.work.read(domains.find, "default")
    scores, label_ids = read_out_of_fold(folder), read_manifest(folder).label_ids
    return folder, answers_of(context, domain, scores, label_ids) is not None


def test_the_generative_version_has_a_say_where_the_tier_is_switched_on(context: JobContext) -> None:
    train_encoder(context)
    assert not asked_after(context)[1], "the domain has none"

    # Any artifact with evidence of its own: what it was trained with does not matter here.
    [version_id] = column(context.work, ModelVersion.id)
    context.work(lambda session: session.execute(update(Domain).values(generative_version_id=version_id)))
    folder, has_a_say = asked_after(context)
    assert has_a_say

    object.__setattr__(context, "settings", context.settings.model_copy(update={"generative": False}))
    assert not asked_after(context)[1]
    object.__setattr__(context, "settings", context.settings.model_copy(update={"generative": True}))

    domain, scores = context.work.read(domains.find, "default"), read_out_of_fold(folder)
    label_ids = read_manifest(folder).label_ids
    shutil.rmtree(folder)
    assert answers_of(context, domain, scores, label_ids) is None, "one that is gone stops no proof"
