"""The discriminative tier: the domain's own trained model, fused with what the keyword rules say."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from app.intent.arrays import FloatArray
from app.intent.cascade import Verdict
from app.intent.fusion import Fusion, fuse
from app.intent.hierarchy import Hierarchy
from app.intent.rules import Rule
from app.intent.text import MaskedText
from app.scorers.artifact import ScopedScorer, Scorer

MOST_TOPK = 20


class LocalModel:
    """Judges texts with a loaded artifact. Its confidence is calibrated: by the artifact, or by the fusion."""

    name = "discriminative"
    fuses: Sequence[str] = ("rules",)

    def __init__(
        self,
        scorer: Scorer,
        version: str,
        *,
        rules: Sequence[Rule] = (),
        fusion: Fusion | None = None,
        hierarchy: Hierarchy | None = None,
    ) -> None:
        """`rules` and `fusion` belong together: the weights were fitted for these rules and this artifact.

        `hierarchy`: the tree over all labels of the domain.
        """
        self._scorer = scorer
        # Counting words gives no embedding, and no scope.
        self._scoped = cast(ScopedScorer, scorer) if hasattr(scorer, "scope") else None
        self._version = version
        self._rules: Mapping[int, Rule] = {rule.rule_id: rule for rule in rules}
        self._fusion = fusion
        # A flat taxonomy costs its answers nothing.
        self._hierarchy = None if hierarchy is None or hierarchy.is_flat else hierarchy

    def judge_many(self, texts: Sequence[MaskedText], earlier: Sequence[Sequence[Verdict]]) -> list[Verdict]:
        """One verdict per text: the best label, and the best `MOST_TOPK`.

        `earlier` may hold a verdict of the rules for each text; without one the model answers alone.
        """
        answers, far = self._ask(texts)
        said = [_said_by_rules(verdicts) for verdicts in earlier] if earlier else [None] * len(texts)
        return [self._verdict(row, by, rules) for row, by, rules in zip(answers, far, said, strict=True)]

    def _ask(self, texts: Sequence[MaskedText]) -> tuple[FloatArray, Sequence[float]]:
        """Probabilities, and how far each text is beyond the model's scope; at most 0 is within."""
        if self._scoped is None or self._scoped.scope is None:
            return self._scorer.probabilities(texts), [0.0] * len(texts)
        embeddings = self._scoped.embed(texts)
        answers, scope = self._scoped.judge(embeddings), self._scoped.scope
        return answers, (scope.score(embeddings, answers) - scope.threshold).tolist()

    def _verdict(self, probabilities: FloatArray, far: float, rules: Verdict | None) -> Verdict:
        label_ids: Sequence[int] = self._scorer.label_ids
        reason = None
        matched: Sequence[Rule] = ()
        if self._fusion is not None:
            matched = [self._rules[rule_id] for rule_id in rules.rules] if rules is not None else []
            if matched:
                alone = int(probabilities.argmax())
                reason = f"the model alone: label {label_ids[alone]} with {probabilities[alone]:.3f}"
            label_ids, probabilities = fuse(probabilities, label_ids, matched, self._fusion)
        # Stable, so that of two equal labels the same one wins in every process.
        best = np.argsort(-probabilities, kind="stable")[:MOST_TOPK]
        topk = tuple(zip([label_ids[i] for i in best.tolist()], probabilities[best].tolist(), strict=True))
        label_id, confidence = topk[0]
        # A rule that speaks for the answer vouches for the text: people know what the model has not seen.
        is_out = far > 0.0 and all(rule.label_id != label_id for rule in matched)
        if is_out:
            reason = f"out of scope by {far:.2f}" if reason is None else f"{reason}; out of scope by {far:.2f}"
        return Verdict(
            tier=self.name,
            label_id=label_id,
            confidence=min(1.0, confidence),
            topk=topk,
            reason=reason,
            version=self._version,
            fuses=(rules.tier,) if rules is not None else (),
            above=() if self._hierarchy is None else self._hierarchy.above(label_id, label_ids, probabilities),
            out_of_scope=is_out,
        )


def _said_by_rules(verdicts: Sequence[Verdict]) -> Verdict | None:
    return next((verdict for verdict in verdicts if verdict.tier in LocalModel.fuses), None)
