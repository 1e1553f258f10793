"""Say when a batch is due, when a failed one is tried again, and what a rollback goes to."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Target = TypeVar("Target")


@dataclass(frozen=True, slots=True)
class Due:
    """Whether a batch should be opened now, how many new labels are missing until then, and why."""

    open: bool
    missing: int
    reason: str


def labels_needed(labelled: int, floor: int = 100, share: float = 0.10) -> int:
    """New labels that open a batch: the floor, or a share in [0, 1] of the labelled texts if that is more."""
    return max(floor, math.ceil(share * labelled - 1e-9))  # 0.07 * 100 is a little more than 7


def due(
    *,
    new: int,
    oldest_new_age_days: float,
    labelled: int,
    floor: int = 100,
    share: float = 0.10,
    small: int = 20,
    small_days: float = 7.0,
) -> Due:
    """Whether enough labels are new, or some and old enough.

    A domain that is rarely labelled must not wait for ever: `small` new labels are enough once the oldest of
    them has waited `small_days`. `labelled`: the texts that were labelled before these.
    """
    needed = labels_needed(labelled, floor, share)
    if new >= needed:
        return Due(True, 0, f"{new} new labels, {needed} are needed")
    if new >= small > 0 and oldest_new_age_days >= small_days:
        return Due(True, 0, f"{new} new labels, the oldest {oldest_new_age_days:.1f} days old")
    reason = f"{new} of {needed} new labels are in"
    if small > 0:
        reason += f"; {small} are enough once the oldest is {small_days:g} days old"
    return Due(False, needed - new, reason)


def retry_delay(consecutive_failures: int, delays_seconds: Sequence[float] = (60, 300, 1500)) -> float | None:
    """Seconds from the last failure until the next try, 0 without a failure.

    None when the delays are used up: then only a new label, or a person, starts another try.
    """
    if consecutive_failures <= 0:
        return 0.0
    if consecutive_failures > len(delays_seconds):
        return None
    return float(delays_seconds[consecutive_failures - 1])


def rollback_target(history: Iterable[tuple[int, Target, str]]) -> Target | None:
    """What to go back to, or None where nothing else was active before.

    `history`: (epoch, what was active since then, kind) of each activation of a domain, in any order; kind is
    `activate` or `rollback`. Activating puts it on a stack and a rollback takes one off, so each further rollback
    goes one further back. Activating what is active already adds nothing to go back to.
    """
    stack: list[Target] = []
    for _, active, kind in sorted(history, key=lambda entry: entry[0]):
        if kind == "rollback":
            if stack:
                stack.pop()
        elif not stack or stack[-1] != active:
            stack.append(active)
    return stack[-2] if len(stack) > 1 else None
