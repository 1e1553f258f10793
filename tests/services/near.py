"""Texts that are near twins of each other, and what the clock does with them."""

import itertools
from collections.abc import Sequence

from app.db.session import UnitOfWork
from app.db.tables import Text
from app.intent.selection import is_gold_candidate
from app.intent.text import MaskedText, text_hash
from app.services import twin_order, twins
from app.services.twins import Grouped
from tests.builders import ask, column, domain_id

STEM = "请问我的信用卡什么时候可以寄到我家里来"
OTHER = "昨天在网上买的衣服尺码不合适想换一件大的"


def near_texts(count: int, *, gold: bool = False, stem: str = STEM) -> list[str]:
    """So many near twins, of which the hash holds out all or none."""
    endless = (f"{stem}{chr(0x4E00 + number)}" for number in itertools.count())
    wanted = (text for text in endless if is_gold_candidate(text_hash(MaskedText(text))) is gold)
    return list(itertools.islice(wanted, count))


def group(work: UnitOfWork, *, domain: str = "default", limit: int = 100) -> Grouped:
    """Group all new texts, a page at a time."""
    total, after = Grouped(), 0
    while page := work.read(twins.ungrouped, domain_id(work, domain), limit=limit, after=after):
        after = page[-1].text_id
        total += work(twins.group, domain, twins.sign(page))
    return total


def put_in_order(work: UnitOfWork, *, domain: str = "default", limit: int = 2) -> int:
    """Let one of each group be asked first, a page at a time; how many changed their place."""
    changed, after = 0, ""
    while after is not None:
        order = work.read(twin_order.look, domain_id(work, domain), after=after, limit=limit)
        changed += work(twin_order.put, order.changes)
        after = order.last
    return changed


def groups(work: UnitOfWork) -> list[list[str | None]]:
    """The texts of each group, the oldest first."""
    found: dict[str, list[str | None]] = {}
    for group_hash, text in column(work, Text.group_hash, Text.text):
        found.setdefault(group_hash, []).append(text)
    return list(found.values())


def held_out(work: UnitOfWork) -> list[bool]:
    """Of each text, the oldest first, whether it is gold."""
    return column(work, Text.is_gold)


def ask_one_by_one(work: UnitOfWork, texts: Sequence[str], **changes: object) -> list[str]:
    """Ask these texts so that each is older than the next; the ids of the questions."""
    return [ask(work, text, **changes)[0] for text in texts]
