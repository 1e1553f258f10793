"""Show the audit trail, and check that nothing in it was altered."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from app.cli.opening import JsonOption, console, database, print_json, settings
from app.services import audit, domains
from app.trail import remembered_head

app = typer.Typer(help="The audit trail: who changed what, from what, to what.", no_args_is_help=True)


@app.command("list")
def list_events(
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Only what happened in this domain.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Print what people changed, the newest first."""

    def read(session: Session) -> list[dict[str, Any]]:
        wanted = domains.find(session, domain).id if domain is not None else None
        names = (
            "sequence", "created_at", "actor", "key_id", "action", "subject", "before", "after", "trace_id",
        )  # fmt: skip
        return [
            {name: getattr(event, name) for name in names} | {"domain": owner}
            for event, owner in audit.listing(session, domain_id=wanted, limit=limit)
        ]

    with database(settings()) as work:
        rows = work.read(read)
    if as_json:
        print_json(rows)
        return
    table = Table("#", "when", "who", "what", "which", "domain", "from", "to")
    for row in rows:
        who = f"{row['actor']} ({row['key_id']})" if row["key_id"] else row["actor"]
        table.add_row(
            str(row["sequence"] or "–"),
            f"{row['created_at']:%Y-%m-%d %H:%M:%S}",
            escape(who),
            row["action"],
            escape(row["subject"]),
            row["domain"] or "–",
            *(escape(json.dumps(row[side], ensure_ascii=False)) if row[side] else "–" for side in ("before", "after")),
        )
    console.print(table)


@app.command("verify")
def verify_trail(as_json: JsonOption = False) -> None:
    """Walk the chain of the audit trail and name every row that was altered, is missing or changed its place.

    Run it where a service runs: that machine remembers where the trail ended. Exit status: 0 it holds, 1 it does not.
    """
    from app.main import installation_secret

    given = settings()
    with database(given) as work:
        remembered = remembered_head(given.audit_head)
        found = work.read(audit.verify, secret=installation_secret(given), remembered=remembered)
    if as_json:
        print_json(
            {
                "holds": not found.faults,
                "sealed": found.head.sequence if found.head else 0,
                "head": found.head.chain_hash if found.head else None,
                "unsealed": found.unsealed,
                "faults": [asdict(fault) for fault in found.faults],
            }
        )
    else:
        sealed = found.head.sequence if found.head else 0
        console.print(f"{sealed} rows are chained, {found.unsealed} wait for a running service to chain them.")
        for fault in found.faults:
            where = f"row {fault.sequence}" + (f" (id {fault.event_id})" if fault.event_id else "")
            console.print(f"  {where}: {fault.problem}", markup=False)
        console.print("The trail does not hold." if found.faults else "The trail holds.")
    if found.faults:
        raise typer.Exit(1)
