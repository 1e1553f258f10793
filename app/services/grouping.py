"""Decide what becomes of new texts and of the groups that they are near: who joins whom, and who is gold."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.db.tables import BatchItem, Text
from app.services import counting
from app.services.texts import Priority, fresh_priority, may_be_asked

MOST_IN_GROUP: Final = 300
"""A group is asked about, made gold and moved as a whole, in one transaction: it must not be large."""


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of a text that decide, and those that follow."""

    id: int
    text_hash: str
    group_hash: str
    is_grouped: bool
    is_gold: bool
    state: str
    strategy: str | None
    label_source: str | None
    training_status: str
    has_words: bool
    domain_id: int
    count: int
    priority: float | None
    reason: str | None
    sampling_probability: float | None
    label_id: int | None
    train_allowed: bool
    proposed_label: str | None
    topk: list[list[Any]]
    projection_due: bool

    @property
    def is_firm(self) -> bool:
        """Whether this text is gold for good: drawn, or answered by a person."""
        return self.is_gold and (
            self.strategy == "gold" or (self.state == "labelled" and self.label_source != "import")
        )

    def decides_as(self, other: "Row") -> bool:
        """Whether what was decided by the other holds for this."""
        return all(getattr(self, name) == getattr(other, name) for name in _DECIDING)

    def standing(self) -> counting.Standing:
        """What it adds to the levels."""
        return counting.standing({name: getattr(self, name) for name in _COUNTED} | {"text": self.has_words or None})


_DECIDING: Final = (
    "text_hash", "group_hash", "is_grouped", "is_gold", "state", "strategy", "label_source", "training_status",
    "has_words",
)  # fmt: skip
_COUNTED: Final = (
    "state", "is_gold", "priority", "count", "label_id", "train_allowed", "proposed_label", "training_status",
)  # fmt: skip
COLUMNS: Final = tuple(
    Text.text.is_not(None).label(name) if name == "has_words" else getattr(Text, name) for name in Row.__slots__
)


def read(session: Session, *conditions: Any) -> dict[int, Row]:
    """The texts of these conditions, by id."""
    rows = session.execute(select(*COLUMNS).where(*conditions).order_by(Text.id))
    return {row.id: Row(**row._asdict()) for row in rows}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a text is to be."""

    group_hash: str
    is_gold: bool
    is_grouped: bool = True


class _Sets:
    """Disjoint sets of hashes."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def root(self, one: str) -> str:
        """What stands for the set of this hash."""
        while (above := self._above.get(one, one)) != one:
            one = above
        return one

    def join(self, small: str, large: str) -> None:
        """Make one set of two, by their roots; the second stands for both."""
        self._above[small] = large


class Plan:
    """What becomes of the texts of a page and of the groups that they meet. It only reads."""

    def __init__(
        self,
        session: Session,
        domain_id: int,
        new: Set[int],
        rows: Mapping[int, Row],
        pairs: Sequence[tuple[int, int]],
    ) -> None:
        self.session, self.domain_id = session, domain_id
        self.new = {text_id: rows[text_id] for text_id in sorted(new)}
        self.rows = dict(rows)
        self.groups = _Sets()
        # All that are near, also where a group is too large to grow: they are gold together, or none is.
        self.kin = _Sets()
        self.established = self._established({rows[other].group_hash for _, other in pairs})
        self._join(pairs)

    def _established(self, hashes: Iterable[str]) -> dict[str, tuple[int, bool]]:
        """The groups of texts that were compared before: how many they are, and whether they are gold."""
        rows = self.session.execute(
            select(Text.group_hash, func.count(), func.max(case((Text.is_gold.is_(True), 1), else_=0)))
            .where(Text.domain_id == self.domain_id, Text.group_hash.in_(sorted(hashes)), Text.is_grouped.is_(True))
            .group_by(Text.group_hash)
        )
        return {group_hash: (size, bool(is_gold)) for group_hash, size, is_gold in rows}

    def _join(self, pairs: Sequence[tuple[int, int]]) -> None:
        size = Counter({group_hash: size for group_hash, (size, _) in self.established.items()})
        size.update(row.group_hash for row in self.new.values())
        oldest: dict[str, int] = {}
        for text_id, row in sorted(self.rows.items()):
            oldest.setdefault(row.group_hash, text_id)
        for pair in pairs:
            first, second = (self.rows[text_id].group_hash for text_id in pair)
            near = sorted((self.kin.root(first), self.kin.root(second)))
            if near[0] != near[1]:
                self.kin.join(*near)
            one, other = self.groups.root(first), self.groups.root(second)
            if one == other or size[one] + size[other] > MOST_IN_GROUP:
                continue
            # The smaller joins the larger, and of equals the younger the older.
            small, large = sorted((one, other), key=lambda hash_: (size[hash_], -oldest[hash_]))
            self.groups.join(small, large)
            size[large] += size[small]
            oldest[large] = min(oldest[small], oldest[large])

    def wanted(self) -> dict[int, Wanted]:
        """What each text of the page, and each of a group that changes, is to be."""
        found: dict[int, Wanted] = {}
        judged = self._judged_on()
        families: dict[str, list[Row]] = {}
        for row in self.new.values():
            families.setdefault(self.kin.root(row.group_hash), []).append(row)
        met: dict[str, list[str]] = {}
        for group_hash in self.established:
            met.setdefault(self.kin.root(group_hash), []).append(group_hash)
        for root, family in families.items():
            groups = met.get(root, [])
            is_gold = self._is_gold(family, groups, judged)
            moving = [hash_ for hash_ in groups if self._moves(hash_, is_gold)]
            members = self._members(moving)
            everyone = [*family, *members]
            if is_gold and any(row.training_status == "claimed" and not row.is_gold for row in everyone):
                found |= {row.id: self._put_off(row) for row in family}
            else:
                found |= {row.id: Wanted(self.groups.root(row.group_hash), is_gold) for row in everyone}
        return found

    def _is_gold(self, family: Sequence[Row], groups: Sequence[str], judged: Set[int]) -> bool:
        if any(self.established[hash_][1] for hash_ in groups) or any(
            row.is_firm or row.id in judged for row in family
        ):
            return True
        # The oldest, whose hash is the group's.
        return not groups and family[0].is_gold

    def _judged_on(self) -> Set[int]:
        """Those new texts held out by their hash alone by which a version was judged all the same."""
        ids = [row.id for row in self.new.values() if row.is_gold and not row.is_firm]
        if not ids:
            return frozenset()
        gold = select(BatchItem.text_id).where(BatchItem.text_id.in_(ids), BatchItem.role == "gold")
        return set(self.session.scalars(gold.distinct()))

    def _moves(self, group_hash: str, is_gold: bool) -> bool:
        return self.groups.root(group_hash) != group_hash or self.established[group_hash][1] != is_gold

    def _members(self, hashes: Sequence[str]) -> list[Row]:
        if not hashes:
            return []
        found = read(
            self.session,
            Text.domain_id == self.domain_id,
            Text.group_hash.in_(hashes),
            Text.is_grouped.is_(True),
        )
        self.rows |= found
        return list(found.values())

    @staticmethod
    def _put_off(row: Row) -> Wanted:
        held = row.training_status == "claimed"
        return Wanted(row.group_hash, row.is_gold if held else True, is_grouped=False)


def become(row: Row, wanted: Wanted) -> Row:
    """The text as it is to be; its place in the queue goes where gold waits for a draw."""
    after = replace(row, group_hash=wanted.group_hash, is_gold=wanted.is_gold, is_grouped=wanted.is_grouped)
    if wanted.is_gold == row.is_gold:
        return after
    if row.state == "labelled":
        # What a version learned from stays used: it is no longer trained on, and judges nobody.
        before, status = ("pending", "skipped") if wanted.is_gold else ("skipped", "pending")
        if row.training_status != before:
            return after
        return replace(after, training_status=status, projection_due=row.projection_due or row.count > 0)
    asked = Priority(None, None, None)
    if not wanted.is_gold and may_be_asked(row.state, row.has_words, row.train_allowed):
        asked = fresh_priority(row.text_hash, max(row.count, 1), row.topk)
    return replace(after, priority=asked.value, strategy=asked.strategy, reason=asked.reason, sampling_probability=None)
