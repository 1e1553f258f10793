"""Bring near twins into groups, of which either all are gold or none is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from sqlalchemy import delete, false, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from app.db.bulk import insert_rows, update_rows
from app.db.tables import Text, TextBand
from app.intent.near_twins import LONGEST, band_keys, shingles
from app.intent.text import MaskedText
from app.services import counting, domains, twin_pairs
from app.services.grouping import COLUMNS, Plan, Row, Wanted, become, read
from app.services.twin_pairs import Signed, pages

_BLIND: Final = {"synchronize_session": False}


class Ungrouped(NamedTuple):
    """A text that was not compared yet, from its beginning; None where its words are not kept."""

    text_id: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Grouped:
    """How many texts were compared, how many of them have a twin, and how many wait for a batch to end."""

    compared: int = 0
    twins: int = 0
    waiting: int = 0

    def __add__(self, other: "Grouped") -> "Grouped":
        """Both together."""
        return Grouped(self.compared + other.compared, self.twins + other.twins, self.waiting + other.waiting)


def ungrouped(session: Session, domain_id: int, *, limit: int, after: int = 0) -> list[Ungrouped]:
    """Texts that were not compared yet, by id from `after` on: one page of a stream."""
    rows = session.execute(
        select(Text.id, func.substr(Text.text, 1, LONGEST))
        # An expression in place of the domain's column keeps the planner to the index of those that wait.
        .where(Text.is_grouped == false(), Text.domain_id + 0 == domain_id, Text.id > after)
        .order_by(Text.id)
        .limit(limit)
    )
    return [Ungrouped(*row) for row in rows]


def sign(page: Sequence[Ungrouped]) -> list[Signed]:
    """What these texts are compared by: the work of it all, done while no transaction is open."""
    kept = [(text.text_id, shingles(MaskedText(text.text))) for text in page if text.text is not None]
    bands = band_keys(found for _, found in kept)
    signed = [Signed(text_id, found, keys) for (text_id, found), keys in zip(kept, bands, strict=True)]
    return signed + [Signed(text.text_id, frozenset(), ()) for text in page if text.text is None]


def group(session: Session, domain_name: str, page: Sequence[Signed]) -> Grouped:
    """Put each of these texts into the group of its near twins, or into one of its own.

    Gold wins: a group that meets gold becomes gold, and is not trained on again. A new text that only its hash held
    out, drawn by nobody, answered by no person and that judged no version, follows the group that it comes into:
    otherwise the larger a group, the surer it would be gold. Where a batch holds one that would become gold, the group
    stays as it is until it ended; new texts near it are held out at once, and compared again later.

    The domain is held meanwhile: two clocks stand in line, and no batch is opened between.

    Raises:
        StaleDataError: somebody changed what was decided by; run again, it sees that.
    """
    domain = domains.locked(session, domain_name)
    texts = {text.text_id: text for text in page}
    rows = read(session, Text.id.in_(sorted(texts)), Text.is_grouped == false())
    new = [texts[text_id] for text_id in sorted(rows)]
    pairs, bands = twin_pairs.pairs(session, domain.id, new)
    others = sorted({other for _, other in pairs} - rows.keys())
    new_ids = set(rows)
    rows |= read(session, Text.id.in_(others))
    pairs = [(one, other) for one, other in pairs if other in rows]
    plan = Plan(session, domain.id, new_ids, rows, pairs)
    wanted = plan.wanted()
    locked = _locked(session, domain.id, plan.rows, wanted)
    _write(session, locked, wanted)
    _keep_bands(session, domain.id, {text_id: bands[text_id] for text_id in new_ids if wanted[text_id].is_grouped})
    joined = sum(wanted[text_id].group_hash != rows[text_id].text_hash for text_id in new_ids)
    waiting = sum(not wanted[text_id].is_grouped for text_id in new_ids)
    return Grouped(len(new_ids) - waiting, joined, waiting)


def _locked(session: Session, domain_id: int, rows: Mapping[int, Row], wanted: Mapping[int, Wanted]) -> dict[int, Row]:
    """The rows that change, locked in the order of their ids together with the first text of each group.

    Who forgets a first text gives its group another hash, and must see all who came into it: so it is held.
    """
    hashes = {one.group_hash for text_id, one in wanted.items() if rows[text_id].text_hash != one.group_hash}
    first = session.execute(
        select(Text.id, Text.text_hash).where(Text.domain_id == domain_id, Text.text_hash.in_(sorted(hashes)))
    ).all()
    locked: dict[int, Row] = {}
    for some in pages({*wanted, *(text_id for text_id, _ in first)}):
        statement = select(*COLUMNS).where(Text.id.in_(some)).order_by(Text.id).with_for_update(key_share=True)
        locked |= {row.id: Row(**row._asdict()) for row in session.execute(statement)}
    there = {locked[text_id].text_hash for text_id, _ in first if text_id in locked}
    holds = all(text_id in locked and locked[text_id].decides_as(rows[text_id]) for text_id in wanted)
    if not holds or not hashes <= there:
        raise StaleDataError("a text changed while its group was looked for")
    return {text_id: locked[text_id] for text_id in wanted}


def _write(session: Session, rows: Mapping[int, Row], wanted: Mapping[int, Wanted]) -> None:
    alone, changed = [], []
    for text_id, row in rows.items():
        after = become(row, wanted[text_id])
        if after == replace(row, is_grouped=True):
            alone.append(text_id)
        elif after != row:
            changed.append(after)
            counting.moved(session, row.domain_id, row.standing(), after.standing())
    for some in pages(alone):
        session.execute(update(Text).where(Text.id.in_(some)).values(is_grouped=True), execution_options=_BLIND)
    if changed:
        update_rows(session, Text, "id", {name: [getattr(row, name) for row in changed] for name in _CHANGED})


_CHANGED: Final = (
    "id", "group_hash", "is_grouped", "is_gold", "training_status", "priority", "reason", "strategy",
    "sampling_probability", "projection_due",
)  # fmt: skip


def _keep_bands(session: Session, domain_id: int, bands: Mapping[int, Sequence[int]]) -> None:
    drop_bands(session, list(bands))
    found = sorted((band, text_id) for text_id in bands for band in bands[text_id])
    if found:
        band_column, text_column = zip(*found, strict=True)
        columns = {"domain_id": [domain_id] * len(found), "band": band_column, "text_id": text_column}
        insert_rows(session, TextBand, columns)


def drop_bands(session: Session, text_ids: Iterable[int]) -> None:
    """Forget what these texts are found by."""
    for some in pages(text_ids):
        session.execute(delete(TextBand).where(TextBand.text_id.in_(some)), execution_options=_BLIND)


def hand_on(session: Session, texts: Sequence[Text]) -> None:
    """Name the groups that were named after these texts, which the caller has locked and forgets, after another member.

    The hash of words goes with the words: those of a short text can be guessed.
    """
    hashes = {(text.domain_id, text.group_hash) for text in texts if text.group_hash == text.text_hash}
    if not hashes:
        return
    left = session.execute(
        select(Text.id, Text.domain_id, Text.text_hash, Text.group_hash)
        .where(
            Text.domain_id.in_({domain_id for domain_id, _ in hashes}),
            Text.group_hash.in_({group_hash for _, group_hash in hashes}),
            Text.id.not_in([text.id for text in texts]),
        )
        .order_by(Text.id)
        .with_for_update(key_share=True)
    ).all()
    heirs: dict[tuple[int, str], str] = {}
    for row in left:
        if (row.domain_id, row.group_hash) in hashes:
            heir = heirs.setdefault((row.domain_id, row.group_hash), row.text_hash)
            session.execute(update(Text).where(Text.id == row.id).values(group_hash=heir), execution_options=_BLIND)
