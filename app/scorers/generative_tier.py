"""The generative tier: a causal model, asked again among the labels that the discriminative one finds likely."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeAlias

from app.intent.cascade import TierUnavailable, Verdict
from app.intent.hierarchy import above_in
from app.intent.text import MaskedText
from app.scorers.generative_wire import GenerativeUnavailable, Ranking

MOST_CANDIDATES: Final = 10
"""So many of the best labels of the model it chooses among: more of them make its prompt long, and it slow."""

FEW_CANDIDATES: Final = "few_candidates"
MOST_TOPK: Final = 20

Among: TypeAlias = Callable[[Sequence[str], Sequence[Sequence[int] | None]], Sequence[Ranking]]
"""For each text its candidates (label ids; None: all) with probabilities that sum to 1, the best first."""


class Abstains(TierUnavailable):
    """The tier gives no verdict; `reason` is one word for why."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.reason = word


class GenerativeTier:
    """Judges texts with one generative artifact."""

    name = "generative"
    fuses: Sequence[str] = ()

    def __init__(
        self, among: Among, label_ids: Collection[int], version: str, *, paths: Mapping[int, str] | None = None
    ) -> None:
        """`among` asks the artifact, which knows the labels `label_ids`. `paths`: of all labels, by id, if wanted."""
        self._among = among
        self._label_ids = frozenset(label_ids)
        self._version = version
        self._paths = paths or {}

    def judge_many(self, texts: Sequence[MaskedText], earlier: Sequence[Sequence[Verdict]]) -> list[Verdict]:
        """One verdict per text: among the model's best labels where it has judged, else among all.

        Raises:
            Abstains: there is no answer, or none in time.
        """
        said = [_said_by_model(verdicts) for verdicts in earlier] if earlier else [None] * len(texts)
        candidates = [None if verdict is None else self._candidates(verdict) for verdict in said]
        try:
            rankings = self._among(texts, candidates)
        except GenerativeUnavailable as error:
            raise Abstains(error.reason) from error
        return [self._verdict(ranking, verdict) for ranking, verdict in zip(rankings, said, strict=True)]

    def _candidates(self, verdict: Verdict) -> list[int]:
        known = [label_id for label_id, _ in verdict.topk if label_id in self._label_ids]
        if len(known) < 2:
            raise Abstains(FEW_CANDIDATES)
        return known[:MOST_CANDIDATES]

    def _verdict(self, ranking: Ranking, model: Verdict | None) -> Verdict:
        topk = ranking if model is None else total_probability(ranking, model.topk)
        label_id, confidence = topk[0]
        return Verdict(
            self.name,
            label_id,
            min(1.0, confidence),
            tuple(topk[:MOST_TOPK]),
            version=self._version,
            above=above_in(topk, self._paths),
        )


def total_probability(ranking: Ranking, model: Sequence[tuple[int, float]]) -> Ranking:
    """What the process says among the candidates, weighted by how likely the answer is one of them.

    P(label) = P(label | candidates) · Σ P_model(candidate): a question that the model finds unlike all of them does
    not become a sure one because one of them had to be chosen. Other labels keep the model's probability. `ranking`:
    sums to 1. `model`: label ids with the model's probabilities. Returns the best first.
    """
    among = {label_id for label_id, _ in ranking}
    mass = min(1.0, math.fsum(probability for label_id, probability in model if label_id in among))
    chosen = [(label_id, mass * probability) for label_id, probability in ranking]
    others = [(label_id, probability) for label_id, probability in model if label_id not in among]
    return tuple(sorted([*chosen, *others], key=lambda entry: -entry[1]))


def _said_by_model(verdicts: Sequence[Verdict]) -> Verdict | None:
    return next((verdict for verdict in verdicts if verdict.tier == "discriminative" and verdict.topk), None)
