"""Forget what a user asked, one question, or all that is old."""

from typing import Annotated

import typer

from app.artifacts.opening import open_store
from app.cli.opening import JsonOption, console, database, print_json, settings
from app.db.session import UnitOfWork
from app.errors import Conflict, Malformed
from app.operations import forgetting
from app.services import audit, tombstones
from app.services.tombstones import Stone
from app.settings import Settings

app = typer.Typer()


@app.command()
def forget(
    user: Annotated[str | None, typer.Option(help="A user, by the `user_id` that the questions came with.")] = None,
    question: Annotated[str | None, typer.Option(help="One question, by its id.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="All that was asked longer ago than so many days.")
    ] = None,
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Only in this domain. [default: all]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be forgotten; change nothing.")] = False,
    vacuum: Annotated[
        bool | None,
        typer.Option(
            "--vacuum/--no-vacuum",
            help="Then write the tables anew on the disk, which others wait for. [default: only a small SQLite file]",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Forget questions for good, with every text that nobody else asked, and say which versions were trained on them.

    Exactly one of `--user`, `--question` and `--older-than`. What is forgotten is written down as a tombstone, so that
    a restored backup forgets it again. Exit status: 0 forgotten, whether or not its bytes can be overwritten at once.
    """
    if sum(choice is not None for choice in (user, question, older_than)) != 1:
        raise typer.BadParameter("give exactly one of --user, --question and --older-than")
    if question is not None and domain is not None:
        raise typer.BadParameter("a question has one domain: leave --domain away")
    given = settings()
    with database(given) as work:
        stone = _stone(given, work, user, question, older_than, domain)
        if dry_run:
            report = forgetting.foresee(work, stone, open_store(given))
        else:
            _refuse_while_spooled(given)
            report = forgetting.forget(
                work,
                stone,
                data_dir=given.data_dir,
                store=open_store(given),
                by=audit.COMMAND_LINE,
                rewriting=vacuum,
            )
    if as_json:
        print_json(_plain(report, dry_run=dry_run))
    else:
        _show(report, dry_run=dry_run)


def _refuse_while_spooled(given: Settings) -> None:
    """What waits in a spool would lie on this disk for as long as it waits: it goes into the database first.

    Raises:
        Conflict: something waits.
    """
    from app.serving.spool import waiting

    if count := waiting(given.spool):
        raise Conflict(
            f"{count} answered questions wait in {given.spool} for the database: start the service, "
            "which hands them on within seconds, and forget then"
        )


def _stone(
    given: Settings,
    work: UnitOfWork,
    user: str | None,
    question: str | None,
    older_than: float | None,
    domain: str | None,
) -> Stone:
    if question is not None:
        if not 0 < len(question) <= 36:
            raise Malformed("this is no id of a question")
        return work.read(tombstones.of_question, question)
    if older_than is not None:
        return work.read(tombstones.of_all_before, older_than, domain)
    # The web framework comes with it, and takes its time.
    from app.main import installation_secret
    from app.serving.classifier import Secret

    user_hash = Secret(installation_secret(given)).of_user(user)
    assert user_hash is not None
    return work.read(tombstones.of_user, user_hash, domain)


def _plain(report: forgetting.Report, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "questions": report.forgotten.questions,
        "texts": report.forgotten.texts,
        "kept_texts": report.forgotten.kept_texts,
        "versions": [
            {"version": version, "texts": count, "active": version in report.active_versions}
            for version, count in sorted(report.versions.items())
        ],
        "training": sorted(report.forgotten.training),
        "erased": report.erased,
    }


def _show(report: forgetting.Report, *, dry_run: bool) -> None:
    found = report.forgotten
    if found.questions == 0:
        console.print(
            "No such question is here." + ("" if dry_run else " A restored backup will forget it all the same.")
        )
        return
    console.print(f"{'Would forget' if dry_run else 'Forgot'} {found.questions} questions and {found.texts} texts.")
    if found.kept_texts:
        console.print(f"{found.kept_texts} texts stay, because others asked them too.")
    for version, count in sorted(report.versions.items()):
        serves = ", which serves," if version in report.active_versions else ""
        console.print(f"Version {version}{serves} was trained on {count} of the texts.", markup=False)
    for batch_id in sorted(found.training):
        console.print(f"Batch {batch_id} trains on some of them now; its files are deleted when it ends.", markup=False)
    if not dry_run:
        console.print(
            "No byte of it is left in the tables."
            if report.erased
            else "Its bytes stay on the disk until the database needs their place: run this again with --vacuum."
        )
