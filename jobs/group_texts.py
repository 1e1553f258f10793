"""Bring new texts to their near twins, and let one of each group be asked first."""

from typing import Final

from app.db.slices import slices
from app.db.tables import Domain
from app.services import twin_order, twins
from app.services.twin_order import Order
from app.services.twins import Grouped
from jobs.context import JobContext

PAGE: Final = 500


def group_texts(context: JobContext, domain: Domain) -> int:
    """Group the new texts of a domain and put its queue in order; returns how many came to a twin."""
    found = group_new(context, domain)
    _put_in_order(context, domain)
    return found.twins


def group_new(context: JobContext, domain: Domain) -> Grouped:
    """Compare the texts that are new with all others of the domain, a page at a time; a stop leaves the rest.

    What they are compared by is worked out while no transaction is open.
    """
    after = 0

    def step() -> Grouped | None:
        nonlocal after
        page = context.work.read(twins.ungrouped, domain.id, limit=PAGE, after=after)
        if not page:
            return None
        after = page[-1].text_id
        return context.work(twins.group, domain.name, twins.sign(page))

    return sum(slices(step, going_on=lambda: not context.stopping.is_set()), Grouped())


def _put_in_order(context: JobContext, domain: Domain) -> None:
    after: str | None = ""

    def step() -> Order | None:
        nonlocal after
        if after is None:
            return None
        order = context.work.read(twin_order.look, domain.id, after=after)
        after = order.last
        if order.changes:
            context.work(twin_order.put, order.changes)
        return order

    for _ in slices(step, going_on=lambda: not context.stopping.is_set()):
        pass
