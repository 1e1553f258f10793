"""Open the batches that are due; `jobs.training` works on them as soon as they are queued."""

from typing import Any

from app.services import batches, domains
from jobs.context import JobContext
from jobs.group_texts import group_new


def train_model(context: JobContext) -> dict[str, Any]:
    """Queue a batch for every domain whose new labels are enough, and name them."""
    opened = []
    for domain in context.work.read(domains.listing):
        # What is new may be near what is held out, and must not be trained on then.
        group_new(context, domain)
        # A look first: opening holds the domain's lock, and most minutes there is nothing to open.
        if not context.work.read(batches.whether_due, domain, context.rule).open:
            continue
        batch = context.work(batches.open_due, domain.name, context.rule)
        if batch is not None:
            opened.append(batch.batch_id)
    return {"opened": opened}
