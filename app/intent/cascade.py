"""Ask one tier after the other until a verdict stands, and keep every verdict."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from app.intent.text import MaskedText

logger = logging.getLogger(__name__)

METHODS: Final[Mapping[str, str]] = {
    "rules": "keyword_fallback",
    "discriminative": "local_model",
    "generative": "generative",
    "llm": "llm_fallback",
}
"""What an answer's `method` says when this tier decided."""

LOGGED_TOPK: Final = 5
LOGGED_RULES: Final = 50


class TierUnavailable(Exception):
    """The tier cannot judge now: it is not loaded, out of reach or overloaded.

    A subclass may name its `reason`, a word of our own that is kept with the verdict.
    """

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One tier's answer to one question; `label_id` is None where the tier abstains.

    `confidence` is a calibrated probability in [0, 1], None where the tier has none. `topk` holds label ids
    with their probabilities, best first, and includes the answer. `reason` is for people and never holds the
    question's text. `rules` are the ids of the keyword rules that matched. `fuses` names the tiers whose verdicts went
    into this one: they are evidence for it, and no answers of their own. `above` holds the nodes of the tree above the
    answer with the sums of the probabilities below them, the deepest first. `out_of_scope`: the text is unlike all that
    the tier knows labels for, so that its verdict does not stand however sure it is.

    Raises:
        ValueError: the confidence is outside of [0, 1] or not a number.
    """

    tier: str
    label_id: int | None
    confidence: float | None = None
    topk: tuple[tuple[int, float], ...] = ()
    reason: str | None = None
    version: str | None = None
    rules: tuple[int, ...] = ()
    fuses: tuple[str, ...] = ()
    above: tuple[tuple[str, float], ...] = ()
    out_of_scope: bool = False

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"tier {self.tier} gave a confidence of {self.confidence}, outside of [0, 1]")

    def stands(self, threshold: float) -> bool:
        """Whether no further tier has to be asked."""
        return (
            self.label_id is not None
            and self.confidence is not None
            and self.confidence >= threshold
            and not self.out_of_scope
        )

    def ancestor(self, threshold: float) -> tuple[str, float] | None:
        """The deepest node above a label that is itself below the threshold, where the node is not; its probability."""
        if not self.above or self.confidence is None or self.confidence >= threshold or self.out_of_scope:
            return None
        return next((node for node in self.above if node[1] >= threshold), None)

    def as_json(self) -> dict[str, Any]:
        """The verdict as it is logged, with its best `LOGGED_TOPK` labels and the first `LOGGED_RULES` rules."""
        logged: dict[str, Any] = {
            "tier": self.tier,
            "label_id": self.label_id,
            "confidence": None if self.confidence is None else round(self.confidence, 6),
            "topk": [[label_id, round(probability, 6)] for label_id, probability in self.topk[:LOGGED_TOPK]],
            "reason": self.reason,
            "version": self.version,
        }
        if self.rules:
            logged["rules"] = list(self.rules[:LOGGED_RULES])
        if self.out_of_scope:
            logged["out_of_scope"] = True
        return logged


class Tier(Protocol):
    """A step of the cascade. Its name is one of `METHODS`."""

    @property
    def name(self) -> str: ...

    @property
    def fuses(self) -> Sequence[str]:
        """The tiers before it whose verdicts it takes in: it judges their texts too, however sure they were."""
        ...

    def judge_many(self, texts: Sequence[MaskedText], earlier: Sequence[Sequence[Verdict]]) -> list[Verdict]:
        """One verdict per text. `earlier`: for each text the verdicts of the tiers asked before, in order.

        Raises:
            TierUnavailable: the tier abstains on all of them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """The cascade's answer to one question: what all verdicts, in the order of the tiers, come to."""

    verdicts: tuple[Verdict, ...]
    threshold: float
    deciding: Verdict | None = field(init=False, compare=False)
    """The verdict that stood; where none did, the most confident guess, the first of equal ones.

    What another verdict has taken in is part of it, and does not decide beside it.
    """

    def __post_init__(self) -> None:
        """Find the deciding verdict once: every other value of a decision is read from it."""
        fused = {tier for verdict in self.verdicts if verdict.label_id is not None for tier in verdict.fuses}
        guesses = [verdict for verdict in self.verdicts if verdict.label_id is not None and verdict.tier not in fused]
        object.__setattr__(self, "deciding", max(guesses, key=_surety, default=None))

    @property
    def label_id(self) -> int | None:
        """The answer's label, None where every tier abstained."""
        return self.deciding.label_id if self.deciding else None

    @property
    def confidence(self) -> float | None:
        """The answer's calibrated probability in [0, 1]."""
        return self.deciding.confidence if self.deciding else None

    @property
    def topk(self) -> tuple[tuple[int, float], ...]:
        """Label ids and probabilities, best first."""
        return self.deciding.topk if self.deciding else ()

    @property
    def trigger_check(self) -> bool:
        """Whether a person should look: no label, one below the threshold, or a text that is out of a tier's scope.

        The last also when a later tier is sure: held to the labels, it names one for any text.
        """
        if self.deciding is None or not self.deciding.stands(self.threshold):
            return True
        return self.out_of_scope

    @property
    def out_of_scope(self) -> bool:
        """Whether a tier has no label for texts like this one."""
        return any(verdict.out_of_scope for verdict in self.verdicts)

    def as_log(self) -> list[dict[str, Any]]:
        """The verdicts as they are logged; the deciding one with the `ancestor` of its label that is sure enough."""
        logged = []
        for verdict in self.verdicts:
            values = verdict.as_json()
            if verdict is self.deciding and (ancestor := verdict.ancestor(self.threshold)) is not None:
                values["ancestor"] = [ancestor[0], round(ancestor[1], 6)]
            logged.append(values)
        return logged

    @property
    def method(self) -> str:
        """The kind of the deciding tier: one of the values of `METHODS`, or `none`."""
        return METHODS[self.deciding.tier] if self.deciding else "none"

    @property
    def route_used(self) -> tuple[str, ...]:
        """The tiers that were asked, in order, also those that abstained."""
        return tuple(verdict.tier for verdict in self.verdicts)


def _surety(verdict: Verdict) -> float:
    return -1.0 if verdict.confidence is None else verdict.confidence


def decide_many(texts: Sequence[MaskedText], tiers: Sequence[Tier], threshold: float) -> list[Decision]:
    """One decision per text.

    A tier is asked only about the texts whose last verdict does not stand or is one that it fuses; a broken tier
    abstains on all of them. `threshold`: the τ of the activation, in [0, 1].
    """
    verdicts: list[list[Verdict]] = [[] for _ in texts]
    _ask(texts, verdicts, tiers, threshold)
    return [Decision(tuple(given), threshold) for given in verdicts]


def decide_further(
    texts: Sequence[MaskedText], decisions: Sequence[Decision], tiers: Sequence[Tier], threshold: float
) -> list[Decision]:
    """What these decisions come to when further tiers are asked, too: those that came too late, or take their time.

    A decision that stands is not asked about.
    """
    verdicts = [list(decision.verdicts) for decision in decisions]
    _ask(texts, verdicts, tiers, threshold)
    return [Decision(tuple(given), threshold) for given in verdicts]


def _ask(
    texts: Sequence[MaskedText], verdicts: Sequence[list[Verdict]], tiers: Sequence[Tier], threshold: float
) -> None:
    """Add the verdict of each tier where it is asked."""
    for tier in tiers:
        waiting = [i for i, given in enumerate(verdicts) if _is_asked(tier, given, threshold)]
        if not waiting:
            continue
        judged = _judge(tier, [texts[i] for i in waiting], [tuple(verdicts[i]) for i in waiting])
        for i, verdict in zip(waiting, judged, strict=True):
            verdicts[i].append(verdict)


def _is_asked(tier: Tier, given: Sequence[Verdict], threshold: float) -> bool:
    return not given or not given[-1].stands(threshold) or given[-1].tier in tier.fuses


def _judge(tier: Tier, texts: Sequence[MaskedText], earlier: Sequence[Sequence[Verdict]]) -> Sequence[Verdict]:
    try:
        judged = tier.judge_many(texts, earlier)
        if len(judged) != len(texts):
            raise TierUnavailable(f"{len(judged)} verdicts for {len(texts)} texts")
    # A tier may be a model, a process or another company: whatever breaks in it, the next one must still be
    # asked. The message of an error may quote the question, so only its type is kept.
    except Exception as error:
        named = error.reason if isinstance(error, TierUnavailable) else None
        reason = named or type(error).__name__
        logger.warning("tier %s abstained on %d texts: %s", tier.name, len(texts), reason)
        return [Verdict(tier.name, None, reason=reason)] * len(texts)
    return judged
