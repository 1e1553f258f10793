"""Train by hand: open a batch of a domain, see it through, and show how far it is."""

import json
import logging
import threading
import time
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from sqlalchemy.orm import Session

from app.cli.opening import DomainOption, JsonOption, console, database, log_to_stderr, print_json, settings
from app.cli.running import context, stopped_by_signals
from app.errors import IntentError
from app.intent.recipes import RECIPES
from app.services import audit, batches, domains, versions
from jobs.context import JobContext
from jobs.group_texts import group_new

app = typer.Typer()

ENDED = ("completed", "failed")
LOOK_SECONDS = 0.3
STAGE_WIDTH = 40


@app.command()
def train(
    domain: DomainOption = domains.DEFAULT,
    recipe: Annotated[str | None, typer.Option(help="How to train. [default: the domain's recipe]")] = None,
    config: Annotated[
        str | None, typer.Option(help="JSON object: what differs from the recipe's defaults, as '{\"lr\": 2e-5}'.")
    ] = None,
    retrain: Annotated[bool, typer.Option(help="Also without a new label, on all that there are.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open a batch of a domain's labels, train and prove it here, and flip where the gate lets it.

    A clock that runs elsewhere may take the batch: it is followed all the same. SIGTERM and Ctrl-C give it back whole.
    Exit status: 0 a version came of it, whether or not it passed the gate; 1 it failed or was stopped.
    """
    if recipe is not None and recipe not in RECIPES:
        raise typer.BadParameter(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    changed = _config(config)
    given = settings()
    log_to_stderr(logging.ERROR)

    def opened(session: Session) -> str:
        batch = batches.open_batch(session, domain, opened_by="person", recipe=recipe, config=changed, retrain=retrain)
        after = {"recipe": batch.recipe, "question_count": batch.question_count, "gold_count": batch.gold_count}
        audit.note(session, audit.COMMAND_LINE, "batch.open", batch.batch_id, domain_id=batch.domain_id, after=after)
        return batches.run(session, batch.batch_id).batch_id

    with database(given) as work:
        within = replace(context(given, work), stopping=stopped_by_signals())
        group_new(within, work.read(domains.find, domain))
        end_with(within, work(opened), as_json=as_json)


def end_with(within: JobContext, batch_id: str, *, as_json: bool) -> None:
    """See a queued batch through and print what became of it.

    Raises:
        IntentError: no version came of it.
    """
    _see_through(within, batch_id, shown=not as_json)
    row = within.work.read(_ended, batch_id)
    if as_json:
        print_json(row)
    else:
        console.print(
            f"{batch_id}: {row['outcome'] or row['training_status']}, version {row['version'] or 'none'}"
            + (f": {row['reason']}" if row["reason"] else ""),
            markup=False,
        )
    if row["training_status"] != "completed":
        raise IntentError(f"batch {batch_id} {row['training_status']}: {row['error'] or 'it was stopped'}")


def _config(given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        value = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter("--config is not JSON") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("--config is not a JSON object")
    return value


def _see_through(within: JobContext, batch_id: str, *, shown: bool) -> None:
    """Train what is queued until this batch has ended, here or with another clock."""
    from jobs.training import train_next

    over = threading.Event()

    def work() -> None:
        try:
            while not over.is_set() and not within.stopping.is_set():
                if within.work.read(_status, batch_id) in ENDED:
                    return
                if train_next(within) is None:
                    time.sleep(LOOK_SECONDS)
        finally:
            over.set()

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    worker = threading.Thread(target=work, name="training")
    worker.start()
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task("waiting", total=1.0)
        while not over.wait(LOOK_SECONDS):
            progress, stage = within.work.read(_progress, batch_id)
            bar.update(task, completed=progress, description=stage[:STAGE_WIDTH])
    worker.join()


def _status(session: Session, batch_id: str) -> str:
    return batches.find(session, batch_id).training_status


def _progress(session: Session, batch_id: str) -> tuple[float, str]:
    batch = batches.find(session, batch_id)
    return float(batch.progress or 0.0), str(batch.stage or batch.training_status)


def _ended(session: Session, batch_id: str) -> dict[str, Any]:
    batch = batches.find(session, batch_id)
    version = versions.find(session, batch.model_version) if batch.model_version else None
    return {
        "batch_id": batch.batch_id,
        "recipe": batch.recipe,
        "training_status": batch.training_status,
        "outcome": batch.outcome,
        "version": batch.model_version,
        "reason": version.reason if version else None,
        "error": batch.error,
    }
