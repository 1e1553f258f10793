"""The discriminative tier: the domain's own trained model."""

from collections.abc import Sequence

import numpy as np

from app.intent.arrays import FloatArray
from app.intent.cascade import Verdict
from app.intent.text import MaskedText
from app.scorers.artifact import Scorer

MOST_TOPK = 20


class LocalModel:
    """Judges texts with a loaded artifact; its confidence is calibrated by the artifact."""

    name = "discriminative"

    def __init__(self, scorer: Scorer, version: str) -> None:
        self._scorer = scorer
        self._version = version

    def judge_many(
        self,
        texts: Sequence[MaskedText],
        earlier: Sequence[Sequence[Verdict]],  # noqa: ARG002 - the first tier has nobody before it
    ) -> list[Verdict]:
        """One verdict per text: the best label, and the best `MOST_TOPK`."""
        return [self._verdict(row) for row in self._scorer.probabilities(texts)]

    def _verdict(self, probabilities: FloatArray) -> Verdict:
        # Stable, so that of two equal labels the same one wins in every process.
        best = np.argsort(-probabilities, kind="stable")[:MOST_TOPK]
        topk = tuple((self._scorer.label_ids[i], float(probabilities[i])) for i in best)
        label_id, confidence = topk[0]
        return Verdict(
            tier=self.name,
            label_id=label_id,
            confidence=min(1.0, confidence),
            topk=topk,
            reason=None,
            version=self._version,
        )
