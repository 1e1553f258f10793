"""Find near twins among the texts of a domain by their bands, of which each text has left its own."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Text, TextBand
from app.intent.near_twins import LONGEST, NEAR, shingles, similarity
from app.intent.text import MaskedText

MOST_IN_BAND: Final = 64
"""Of the texts that share a band, a template that thousands fill in, the first are enough to be compared with."""

MOST_COMPARED: Final = 32

PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Signed:
    """A text by what it is compared by."""

    text_id: int
    shingles: Set[str]
    bands: tuple[int, ...]


def pairs(
    session: Session, domain_id: int, page: Sequence[Signed]
) -> tuple[list[tuple[int, int]], dict[int, list[int]]]:
    """Near twins among these texts and those that were compared before; and the bands under which each is found."""
    holders = _holders(session, domain_id, {band for text in page for band in text.bands})
    candidates: list[tuple[Signed, list[int]]] = []
    kept: dict[int, list[int]] = {}
    for text in page:
        shared = Counter(other for band in text.bands for other in holders[band] if other != text.text_id)
        likely = sorted(shared, key=lambda other: (-shared[other], other))[:MOST_COMPARED]
        candidates.append((text, likely))
        kept[text.text_id] = [band for band in dict.fromkeys(text.bands) if len(holders[band]) < MOST_IN_BAND]
        for band in kept[text.text_id]:
            holders[band].append(text.text_id)
    known = {text.text_id: text.shingles for text in page}
    outside = {other for _, likely in candidates for other in likely} - known.keys()
    known |= _shingles(session, outside)
    return [
        (text.text_id, other)
        for text, likely in candidates
        for other in likely
        if other in known and similarity(text.shingles, known[other]) >= NEAR
    ], kept


def _holders(session: Session, domain_id: int, bands: Set[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {band: [] for band in bands}
    for some in pages(bands):
        rows = session.execute(
            select(TextBand.band, TextBand.text_id)
            .where(TextBand.domain_id == domain_id, TextBand.band.in_(some))
            .order_by(TextBand.band, TextBand.text_id)
        )
        for band, text_id in rows:
            found[band].append(text_id)
    return found


def _shingles(session: Session, text_ids: Iterable[int]) -> dict[int, Set[str]]:
    found: dict[int, Set[str]] = {}
    for some in pages(text_ids):
        rows = session.execute(
            select(Text.id, func.substr(Text.text, 1, LONGEST)).where(Text.id.in_(some), Text.text.is_not(None))
        )
        found |= {text_id: shingles(MaskedText(words)) for text_id, words in rows}
    return found


def pages(keys: Iterable[int]) -> Iterator[list[int]]:
    """These keys in order, in lists of a length that one statement takes."""
    ordered = sorted(keys)
    return (ordered[start : start + PAGE] for start in range(0, len(ordered), PAGE))
