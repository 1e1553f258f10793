"""How many people answer a text without sight of each other, and what their answers come to."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final, TypeVar

Answer = TypeVar("Answer", bound=Hashable)

MOST_ANSWERS: Final = 9


def answers_wanted(text_hash: str, overlap: int, share: float) -> int:
    """`overlap` for the share of texts that the hash picks once and for all, 1 for the others.

    `share` in [0, 1]. A text that is picked at one share is picked at every greater one.
    """
    if overlap <= 1 or share <= 0.0:
        return 1
    if share >= 1.0:
        return overlap
    digest = hashlib.sha256(f"intentloop-overlap\n{text_hash}".encode()).digest()
    return overlap if int.from_bytes(digest[:6], "big") / 2.0**48 < share else 1


def majority(answers: Sequence[Answer]) -> Answer | None:
    """The answer that more than half of them give, or None."""
    if not answers:
        return None
    best, count = Counter(answers).most_common(1)[0]
    return best if 2 * count > len(answers) else None
