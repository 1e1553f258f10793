"""The generative tier: ask it again about what the model was not sure of, behind a bounded queue, with a deadline.

Its process may be slow, full, or gone: then it abstains, and the answer is the one that was there without it. What it
is not asked about never waits for it, as its queue and its thread are its own.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.errors import CallerGone, NoGenerativeAnswer, Overloaded, Unavailable
from app.intent.cascade import Decision, Verdict, decide_further
from app.intent.text import MaskedText
from app.scorers.generative_tier import GenerativeTier
from app.scorers.generative_wire import GenerativeUnavailable, Ranking
from app.serving.batching import GreedyBatcher
from app.serving.runtime import Loaded

# It ends its own computation at the deadline; a call waits so much longer to hear of it.
GRACE_SECONDS = 0.5
# What is asked with less time than this is too late already.
LEAST_SECONDS = 0.01
# What a caller is told. It names no version: that may be of a domain that the caller does not see.
SENTENCES = {
    "starting": "the generative tier is starting; try again",
    "broken": "the generative tier is broken; /readyz tells an admin why",
    "late": "the generative tier did not answer in time (INTENTLOOP_REFINE_SECONDS)",
    "queue_full": "too many questions wait for the generative tier (INTENTLOOP_GENERATIVE_QUEUE)",
}


@dataclass(frozen=True, slots=True)
class Proven:
    """An artifact that the process has loaded and that answered there as it was trained to."""

    folder: Path
    label_ids: frozenset[int]


class Judge(Protocol):
    """The client of the generative process."""

    def judge(
        self,
        artifact: Path,
        texts: Sequence[str],
        candidates: Sequence[Sequence[int] | None] | None = None,
        *,
        deadline_seconds: float,
        grace_seconds: float = ...,
    ) -> list[Ranking]:
        """For each text its candidates with probabilities that sum to 1, the best first."""


class Standing(Protocol):
    """What is known of the process and of the artifacts in it."""

    def proven(self, loaded: Loaded) -> Proven | str:
        """The artifact of a release, ready to be asked; or one word for why it cannot be."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    loaded: Loaded
    text: MaskedText
    decision: Decision
    deadline: float


class Recheck:
    """Asks the generative tier about one question after the other, from a thread of its own."""

    def __init__(
        self,
        judge: Judge,
        standing: Standing,
        *,
        capacity: int,
        seconds: float,
        alone_seconds: float,
        observe: Callable[[str, float], None],
    ) -> None:
        """
        Args:
            capacity: questions that may wait.
            seconds: how long an answer may wait for it.
            alone_seconds: how long one may that asks nobody else.
            observe: takes what became of each question (`answered`, or why not) and the seconds that it took.
        """
        self._judge = judge
        self._standing = standing
        self._seconds = seconds
        self._alone_seconds = alone_seconds
        self._observe = observe
        # One at a time: so does the process, and each has its own deadline.
        self._queue: GreedyBatcher[_Waiting, Decision] = GreedyBatcher(
            self._work, size=1, capacity=capacity, name="generative", skips_abandoned=True
        )

    @property
    def waiting(self) -> int:
        """How many questions wait for it."""
        return self._queue.waiting

    async def further(
        self, loaded: Loaded, text: MaskedText, decision: Decision, *, gone: Callable[[], bool] | None = None
    ) -> Decision:
        """The decision, with the tier's verdict where it does not stand and the domain has a generative version."""
        if loaded.release.generative_digest is None or not decision.trigger_check:
            return decision
        return await self._asked(loaded, text, decision, self._seconds, gone)

    async def alone(self, loaded: Loaded, text: MaskedText, *, gone: Callable[[], bool] | None = None) -> Decision:
        """What the tier says about all labels when nobody else is asked.

        Raises:
            NoGenerativeAnswer: it says nothing.
        """
        if loaded.release.generative_digest is None:
            raise NoGenerativeAnswer("this domain has no generative version yet")
        nothing = Decision((), loaded.release.threshold)
        decision = await self._asked(loaded, text, nothing, self._alone_seconds, gone)
        if decision.label_id is None:
            reason = decision.verdicts[-1].reason or "failed"
            raise NoGenerativeAnswer(SENTENCES.get(reason, f"the generative tier gave no answer ({reason})"))
        return decision

    def close(self) -> None:
        """Finish what is queued, then stop."""
        self._queue.close()

    async def _asked(
        self,
        loaded: Loaded,
        text: MaskedText,
        decision: Decision,
        seconds: float,
        gone: Callable[[], bool] | None,
    ) -> Decision:
        started = time.monotonic()
        if isinstance(found := self._standing.proven(loaded), str):
            asked = _abstained(decision, found)
        else:
            result = await self._result(_Waiting(loaded, text, decision, started + seconds), seconds, gone)
            asked = _abstained(decision, _why(result)) if isinstance(result, BaseException) else result
        last = asked.verdicts[-1]
        outcome = "answered" if last.label_id is not None else last.reason or "failed"
        self._observe(outcome, time.monotonic() - started)
        return asked

    async def _result(
        self, waiting: _Waiting, seconds: float, gone: Callable[[], bool] | None
    ) -> Decision | BaseException:
        try:
            async with asyncio.timeout(seconds):
                [result] = await self._queue.submit([waiting], gone=gone)
        except (TimeoutError, Unavailable) as error:
            return error
        return result

    def _work(self, items: Sequence[_Waiting]) -> list[Decision | Exception]:
        [item] = items
        found = self._standing.proven(item.loaded)
        if isinstance(found, str):
            return [_abstained(item.decision, found)]
        folder = found.folder

        def among(texts: Sequence[str], candidates: Sequence[Sequence[int] | None]) -> list[Ranking]:
            left = item.deadline - time.monotonic()
            if left < LEAST_SECONDS:
                raise GenerativeUnavailable("late", "the deadline passed while the question waited")
            return self._judge.judge(folder, texts, candidates, deadline_seconds=left, grace_seconds=GRACE_SECONDS)

        release = item.loaded.release
        tier = GenerativeTier(among, found.label_ids, release.generative_version or "", paths=release.paths)
        return list(decide_further([item.text], [item.decision], [tier], item.decision.threshold))


def _why(error: BaseException) -> str:
    """One word for why the tier says nothing."""
    if isinstance(error, TimeoutError):
        return "late"
    if isinstance(error, Overloaded):
        return "queue_full"
    return "caller_gone" if isinstance(error, CallerGone) else "failed"


def _abstained(decision: Decision, reason: str | None) -> Decision:
    verdict = Verdict(GenerativeTier.name, None, reason=reason)
    return Decision((*decision.verdicts, verdict), decision.threshold)
