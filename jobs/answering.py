"""Let whole cascades answer labelled texts: what is proved and compared is what would be served."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.cascade import Tier, decide_many
from app.intent.fusion import fusion_from_json
from app.intent.rules import Rule
from app.intent.text import MaskedText
from app.scorers.artifact import Scorer
from app.scorers.tiers import tiers_of
from app.services.activations import Pairing

NO_LABEL = -1


@dataclass(frozen=True, slots=True)
class Gold:
    """Held-out texts with their labels, shape (n,)."""

    texts: Sequence[str]
    truth: IntArray


@dataclass(frozen=True, slots=True)
class Answers:
    """Label ids and confidences, shape (n,); where nothing answered, `NO_LABEL` and 0.

    `out_of_scope`: the texts that a tier has no label for, as far as that was asked.
    """

    predicted: IntArray
    confidence: FloatArray
    out_of_scope: NDArray[np.bool_] | None = None


def cascade(scorer: Scorer | None, version: str, rules: Sequence[Rule], pairing: Pairing) -> tuple[Tier, ...]:
    """The tiers as a service would put them together."""
    fusion = fusion_from_json(pairing.fusion) if pairing.fusion is not None else None
    return tiers_of(scorer, version, rules=rules, fusion=fusion)


def answer(tiers: Sequence[Tier], texts: Sequence[str], threshold: float) -> Answers:
    """What these tiers answer to masked texts."""
    decisions = decide_many([MaskedText(text) for text in texts], tiers, threshold)
    labels = [NO_LABEL if decision.label_id is None else decision.label_id for decision in decisions]
    return Answers(
        np.array(labels, dtype=np.int64),
        np.array([decision.confidence or 0.0 for decision in decisions], dtype=np.float64),
        np.array([decision.out_of_scope for decision in decisions], dtype=bool),
    )
