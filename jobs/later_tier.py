"""What the generative tier says about the texts that τ is fitted on, by the evidence in its own artifact."""

import logging
from collections.abc import Sequence

import numpy as np

from app.artifacts.store import ArtifactUnavailable
from app.db.tables import Domain
from app.intent.calibration import Held
from app.intent.cascade import TierUnavailable, Verdict
from app.intent.text import MaskedText
from app.scorers.artifact import ArtifactUnusable, OutOfFold, read_manifest, read_out_of_fold, verify
from app.scorers.generative_tier import MOST_TOPK, GenerativeTier
from app.scorers.generative_wire import Ranking
from app.services import versions
from jobs.answering import NO_LABEL
from jobs.context import JobContext

logger = logging.getLogger(__name__)

# Of fewer texts that both had not seen, luck would choose τ.
LEAST_TEXTS = 50


def answers_of(context: JobContext, domain: Domain, model: OutOfFold, label_ids: Sequence[int]) -> Held | None:
    """The tier's answers to the texts of `model`, whose columns are `label_ids`, as it is asked after that model.

    Each artifact holds what models that had not seen a text say about it; where both do, the tier's is narrowed to the
    labels that it would be asked among. That its prompt would then name only these makes no difference here. None where
    nobody is asked after the model, or too few texts would tell.
    """
    version = context.work.read(versions.generative, domain) if context.settings.generative else None
    if version is None:
        return None
    try:
        folder = context.store.fetch(version.artifact_digest)
        verify(folder, version.artifact_digest)
        evidence, known = read_out_of_fold(folder), read_manifest(folder).label_ids
    except (ArtifactUnusable, ArtifactUnavailable, OSError) as error:
        # τ is then fitted as for one tier alone.
        logger.warning("version %s says nothing about the threshold: %s", version.version, error)
        return None
    return narrowed(model, label_ids, evidence, known)


def narrowed(model: OutOfFold, label_ids: Sequence[int], evidence: OutOfFold, known: Sequence[int]) -> Held | None:
    """As `answers_of`. `evidence`: the tier's, its columns are `known`."""
    rows = {int(text_id): row for row, text_id in enumerate(evidence.text_ids)}
    both = [place for place, text_id in enumerate(model.text_ids.tolist()) if text_id in rows]
    if len(both) < LEAST_TEXTS:
        return None
    columns = {label_id: column for column, label_id in enumerate(known)}
    answer = Held(np.full(len(model.text_ids), NO_LABEL, dtype=np.int64), np.zeros(len(model.text_ids)))
    for place in both:
        said = evidence.probabilities[rows[int(model.text_ids[place])]]

        def among(_: Sequence[str], asked: Sequence[Sequence[int] | None], said: np.ndarray = said) -> list[Ranking]:
            [candidates] = asked
            shares = np.array([said[columns[label_id]] for label_id in candidates or known], dtype=np.float64)
            shares /= max(float(shares.sum()), 1e-12)
            pairs = zip(candidates or known, shares.tolist(), strict=True)
            return [tuple(sorted(pairs, key=lambda pair: -pair[1]))]

        try:
            tier = GenerativeTier(among, known, "evidence")
            [verdict] = tier.judge_many([MaskedText("")], [[_verdict(model, label_ids, place)]])
        except TierUnavailable:
            continue
        if verdict.label_id is not None and verdict.confidence is not None:
            answer.predicted[place], answer.confidence[place] = verdict.label_id, verdict.confidence
    return answer


def _verdict(model: OutOfFold, label_ids: Sequence[int], place: int) -> Verdict:
    probabilities = model.probabilities[place]
    best = np.argsort(-probabilities, kind="stable")[:MOST_TOPK]
    topk = tuple((label_ids[column], float(probabilities[column])) for column in best.tolist())
    return Verdict("discriminative", topk[0][0], min(1.0, topk[0][1]), topk)
