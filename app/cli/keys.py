"""Make, show and revoke API keys."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table
from sqlalchemy.orm import Session

from app.cli.opening import JsonOption, console, database, print_json, settings
from app.db.tables import ApiKey
from app.services import keys
from app.services.audit import COMMAND_LINE

app = typer.Typer(help="API keys: who may call the service, as what, in which domains.", no_args_is_help=True)


@app.command("create")
def create_key(
    role: Annotated[str, typer.Option(help=f"What its holder may do: {', '.join(keys.ROLES)}.")],
    name: Annotated[str | None, typer.Option(help="Whose it is; it stands in the audit trail.")] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="A domain it is for; repeat for more. [default: all]")
    ] = None,
    labeler_id: Annotated[
        str | None, typer.Option(help="The labeler that a labeler's key speaks for. [default: its name]")
    ] = None,
    rate: Annotated[int | None, typer.Option(min=1, max=10_000_000, help="Requests a minute.")] = None,
    expires_days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Days until it ends.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: this once, for only its hash is kept. Running services know it at once.

    From the first key on nobody enters without one, also when all are revoked.
    """

    def create(session: Session) -> tuple[dict[str, Any], str]:
        key, credential = keys.create(
            session,
            role,
            by=COMMAND_LINE,
            name=name,
            domains=domain,
            labeler_id=labeler_id,
            rate_per_minute=rate,
            expires_days=expires_days,
        )
        return _row(key), credential

    with database(settings()) as work:
        row, credential = work(create)
    if as_json:
        print_json({"key": credential, **row})
        return
    typer.echo(credential)
    speaks = f", speaks for labeler {row['labeler_id']}" if row["labeler_id"] else ""
    where = ", ".join(row["domains"]) if row["domains"] else "all"
    typer.echo(
        f"Key {row['key_id']} ({row['name']}): role {role}, domains: {where}{speaks}. "
        "The line above is shown this once; send it as `Authorization: Bearer <key>`.",
        err=True,
    )


@app.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """Print all keys, revoked ones too, with when each was used last. What opens the door is never shown again."""
    with database(settings()) as work:
        rows = work.read(lambda session: [_row(key) for key in keys.listing(session)])
    if as_json:
        print_json(rows)
        return
    table = Table(
        Column("key", min_width=12, no_wrap=True),
        "name",
        "role",
        "domains",
        "labeler",
        "a minute",
        "made",
        "last used",
        "ends",
        "state",
    )
    for row in rows:
        table.add_row(
            row["key_id"],
            escape(row["name"]),
            row["role"],
            ", ".join(row["domains"]) if row["domains"] is not None else "all",
            escape(row["labeler_id"] or "–"),
            str(row["rate_per_minute"] or "default"),
            *(
                f"{row[when]:%Y-%m-%d %H:%M}" if row[when] else "–"
                for when in ("created_at", "last_used_at", "expires_at")
            ),
            "revoked" if row["revoked_at"] else "good",
        )
    console.print(table)


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The id of the key: the part between the underscores.")],
    as_json: JsonOption = False,
) -> None:
    """End a key for good. Running services refuse it within about a second."""

    def revoke(session: Session) -> tuple[dict[str, Any], bool]:
        return _row(keys.revoke(session, key_id, by=COMMAND_LINE)), keys.any_is_left(session)

    with database(settings()) as work:
        row, any_left = work(revoke)
    if as_json:
        print_json(row | {"any_key_left": any_left})
        return
    console.print(f"Key {row['key_id']} is revoked.")
    if not any_left:
        console.print("No key is left: the service answers 401 to everybody until another one is made.")


def _row(key: ApiKey) -> dict[str, Any]:
    names = (
        "key_id", "name", "role", "domains", "labeler_id", "rate_per_minute", "created_by", "created_at",
        "last_used_at", "expires_at", "revoked_at",
    )  # fmt: skip
    return {name: getattr(key, name) for name in names}
