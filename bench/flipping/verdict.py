"""Hold what clients were told beside what was active: wrong signatures, stale versions, epochs that went back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.flipping.clients import Answer

# How long after its end a version may still be answered with: the promise.
STALE_SECONDS = 1.0


class Flip(NamedTuple):
    """An epoch, its version, and the moments between which its transaction was committed."""

    epoch: int
    version: str
    began: float
    ended: float


@dataclass(slots=True)
class History:
    """Every flip of one domain, in order."""

    flips: list[Flip] = field(default_factory=list)

    def epochs_between(self, start: float, end: float) -> range:
        """The places of all flips that were active at some moment of this interval, as far as anyone can know."""
        began = [flip.began for flip in self.flips]
        ended = [flip.ended for flip in self.flips]
        last = bisect_right(began, end)
        # One is over once the next was committed, which was at the latest when its caller knew.
        first = max(0, bisect_right(ended, start) - 1)
        return range(first, last)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was seen. All but `answers` must be zero."""

    answers: int
    errors: int
    wrong_signatures: int
    stale: int
    went_back: int


def judge(answers: Iterable[Answer], history: History, signatures: Mapping[str, str], *, failures: int = 0) -> Verdict:
    """Judge all answers; each connection stays with one worker, whose epochs never go back."""
    count = errors = wrong = stale = went_back = 0
    reached: dict[int, int] = {}
    for answer in sorted(answers, key=lambda answer: answer.end):
        count += 1
        if answer.status != 200 or answer.version is None:
            errors += 1
            continue
        wrong += signatures[answer.version] != answer.label
        active = history.epochs_between(answer.start - STALE_SECONDS, answer.end)
        places = [place for place in active if history.flips[place].version == answer.version]
        if not places:
            stale += 1
            continue
        # The earliest that it can have been, given what this worker had reached: so a worker is never accused wrongly.
        forward = [place for place in places if place >= reached.get(answer.connection, 0)]
        if forward:
            reached[answer.connection] = forward[0]
        else:
            went_back += 1
    return Verdict(count, errors + failures, wrong, stale, went_back)


def percentile(answers: Sequence[Answer], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(answer.end - answer.start for answer in answers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000.0
