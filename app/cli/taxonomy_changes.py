"""Rename, move, merge, retire and split labels that were given already, and take such a change back."""

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.db.tables import TaxonomyChange
from app.intent.masking import mask
from app.intent.taxonomy_changes import Wanted
from app.intent.text import normalise
from app.services import domains, taxonomy_changes, taxonomy_undo
from app.services.audit import COMMAND_LINE

app = typer.Typer()

LabelArgument = Annotated[str, typer.Argument(help="The label, as its path joined by ' > '.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count what it would touch.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why, for the history.")]
SHOWN = (
    "id", "kind", "arguments", "touched", "taxonomy_version", "made_by", "reason", "created_at", "undone_at",
    "undone_by",
)  # fmt: skip


class Texts(StrEnum):
    """What becomes of the texts of a label that leaves."""

    keep = "keep"
    requeue = "requeue"


@app.command("rename")
def rename(
    label: LabelArgument,
    new: Annotated[str, typer.Argument(help="Its new path.")],
    domain: DomainOption = domains.DEFAULT,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give a label, or an inner node and so all below it, another path. Its id and its texts stay."""
    _change(_wanted("rename", [label], to=new), domain, reason, dry_run, as_json)


@app.command("move")
def move(
    label: LabelArgument,
    parent: Annotated[str | None, typer.Argument(help="The new parent; without it the label comes to the top.")] = None,
    domain: DomainOption = domains.DEFAULT,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give a label, or an inner node with all below it, another parent."""
    _change(_wanted("move", [label], to=parent), domain, reason, dry_run, as_json)


@app.command("merge")
def merge(
    labels: Annotated[list[str], typer.Argument(help="The labels to merge.")],
    into: Annotated[str, typer.Option(help="The label that takes their texts: one of them, another, or a new one.")],
    domain: DomainOption = domains.DEFAULT,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make one label of several: their texts and rules go to it, and they retire."""
    _change(_wanted("merge", labels, to=into), domain, reason, dry_run, as_json)


@app.command("retire")
def retire(
    labels: Annotated[list[str], typer.Argument(help="The labels to retire.")],
    texts: Annotated[Texts, typer.Option(help="keep: they stay labelled and untrained; requeue: asked again.")] = (
        Texts.keep
    ),
    domain: DomainOption = domains.DEFAULT,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let labels leave the taxonomy."""
    _change(_wanted("retire", labels, texts=texts.value), domain, reason, dry_run, as_json)


@app.command("split")
def split_label(
    label: LabelArgument,
    into: Annotated[list[str], typer.Argument(help="The labels that take its place, two or more.")],
    domain: DomainOption = domains.DEFAULT,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put several labels in the place of one: its texts go back to the queue, with the old label shown."""
    _change(_wanted("split", [label], into=into), domain, reason, dry_run, as_json)


@app.command("undo")
def undo(
    change: Annotated[int | None, typer.Argument(min=1, help="Number of the change; without it the last one.")] = None,
    domain: DomainOption = domains.DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Take a change back. What people answered since stays."""

    def act(session: Session) -> dict[str, Any]:
        change_id = change or taxonomy_undo.last(session, domains.find(session, domain)).id
        undone = taxonomy_undo.undo(session, change_id, by=COMMAND_LINE)
        return {
            "id": undone.change.id,
            "kind": undone.change.kind,
            "restored_texts": undone.restored_texts,
            "kept_texts": undone.kept_texts,
            "taxonomy_version": undone.taxonomy_version,
        }

    with database(settings()) as work:
        done = work(act)
    if as_json:
        print_json(done)
        return
    console.print(
        f"Change {done['id']} ({done['kind']}) is undone: {done['restored_texts']} texts have again what they had, "
        f"{done['kept_texts']} keep what was answered since."
    )


@app.command("history")
def history(
    domain: DomainOption = domains.DEFAULT,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the changes of a taxonomy, the newest first."""

    def read(session: Session) -> list[dict[str, Any]]:
        rows = taxonomy_changes.listing(session, domains.find(session, domain).id, limit=limit)
        return [_row(row) for row in rows]

    with database(settings()) as work:
        rows = work.read(read)
    if as_json:
        print_json(rows)
        return
    table = Table("change", "kind", "labels", "to", "texts", "by", "at", "undone")
    for row in rows:
        given = row["arguments"]
        table.add_row(
            str(row["id"]),
            row["kind"],
            escape(", ".join(given["labels"])),
            escape(", ".join([given["to"]] if given["to"] else given["into"])),
            str(row["touched"]["texts"]),
            escape(row["made_by"]),
            f"{row['created_at']:%Y-%m-%d %H:%M}",
            f"{row['undone_at']:%Y-%m-%d %H:%M}" if row["undone_at"] else "",
        )
    console.print(table)


def _wanted(
    kind: str, labels: list[str], *, to: str | None = None, into: list[str] | None = None, texts: str = "keep"
) -> Wanted:
    return Wanted(kind, tuple(map(normalise, labels)), to and normalise(to), tuple(map(normalise, into or ())), texts)


def _change(wanted: Wanted, domain: str, reason: str | None, dry_run: bool, as_json: bool) -> None:
    told = mask(normalise(reason))[:255] if reason else None
    with database(settings()) as work:
        made = (work.read if dry_run else work)(
            taxonomy_changes.make, domain, wanted, by=COMMAND_LINE, reason=told, dry_run=dry_run
        )
    touched = {name: getattr(made.touched, name) for name in type(made.touched).__dataclass_fields__}
    if as_json:
        print_json({"id": made.id, "kind": made.kind, "touched": touched, "dry_run": dry_run,
                    "taxonomy_version": made.taxonomy_version})  # fmt: skip
        return
    table = Table("touched", "how many")
    for name, count in touched.items():
        table.add_row(name.replace("_", " "), ", ".join(count) or "–" if isinstance(count, list) else str(count))
    console.print(table)
    if dry_run:
        console.print("Nothing was changed: this was a dry run.")
    else:
        console.print(f"Change {made.id}: `intentloop taxonomy undo {made.id}` takes it back.", markup=False)


def _row(change: TaxonomyChange) -> dict[str, Any]:
    return {name: getattr(change, name) for name in SHOWN}
