"""Say what is wrong with the installation, and what to do."""

from typing import Annotated

import typer
from rich.markup import escape

from app.cli.opening import JsonOption, console, print_json, reach, settings
from app.db.session import UnitOfWork
from app.operations.doctor import examine, is_well
from app.operations.findings import Patient
from app.settings import Settings

app = typer.Typer()

MARKS = {"ok": "[green]ok  [/green]", "warn": "[yellow]warn[/yellow]", "fail": "[red]fail[/red]"}


@app.command()
def doctor(
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also read every page of an SQLite file, however large it is.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Examine machine, database and loop: one line for each finding, and what to do about it. Changes nothing.

    `warn` works and should be mended, `fail` does not work as promised. Exit status: 0 nothing fails, 1 something does.
    """
    given = settings()
    engine = reach(given)
    try:
        findings = []
        for finding in examine(Patient(given, UnitOfWork(engine), thorough, secret=_secret(given))):
            findings.append(finding)
            if not as_json:
                console.print(f"{MARKS[finding.level]} {finding.check}: {escape(finding.says)}")
                if finding.advice:
                    console.print(f"       → {escape(finding.advice)}")
    finally:
        engine.dispose()
    if as_json:
        print_json({"well": is_well(findings), "findings": [finding.as_json() for finding in findings]})
    if not is_well(findings):
        raise typer.Exit(1)


def _secret(given: Settings) -> bytes | None:
    """The installation's key; none is made for a look."""
    from app.main import installation_secret

    if given.secret_key is None and not (given.data_dir / "secret.key").exists():
        return None
    return installation_secret(given)
