"""Back up an installation, and restore it."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from app.artifacts.opening import open_store
from app.cli.opening import JsonOption, console, database, print_json, reach, settings
from app.operations import backup_format, restore, tombstone_file
from app.operations.backup import back_up
from app.operations.backup_format import SECRET, Manifest
from app.settings import Settings

app = typer.Typer()


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
    with_secret: Annotated[
        bool, typer.Option("--with-secret", help="Also copy the installation's secret: keep such a backup locked up.")
    ] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Go on when the artifact of a serving version is missing or damaged.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Then restore it for a test, and throw that away.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy the database as it is at this moment, and its artifacts, while everything runs on.

    The folder is there whole or not at all. It restores into SQLite, PostgreSQL, MySQL and MariaDB alike.
    Exit status: 0 done, 1 not done, or done with artifacts missing.
    """
    from app.main import installation_secret

    given = settings()
    with database(given) as work:
        manifest = back_up(
            work.engine,
            open_store(given),
            folder.absolute(),
            secret=installation_secret(given),
            with_secret=with_secret,
            incomplete=incomplete,
        )
    if verify:
        restore.check(folder.absolute())
    if as_json:
        print_json({"folder": str(folder), "verified": verify, **_facts(manifest)})
    else:
        rows = sum(table.rows for table in manifest.tables.values())
        console.print(f"{folder}: {rows} rows, {len(manifest.artifacts)} artifacts.", markup=False)
        for why in manifest.missing_artifacts.values():
            console.print(f"Not in it: the artifact of version {why}", markup=False)
        if with_secret:
            console.print("It holds the secret of this installation: keep it where nobody else reads.")
        else:
            console.print("The secret is not in it: keep INTENTLOOP_SECRET_KEY or secret.key apart.")
        if verify:
            console.print("A test restore gave the same.")
    if manifest.missing_artifacts:
        raise typer.Exit(1)


@app.command("restore")
def restore_backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A backup.", exists=True, file_okay=False)],
    check: Annotated[
        bool, typer.Option("--check", help="Only try it, in a database that is thrown away; change nothing here.")
    ] = False,
    tombstones: Annotated[
        Path | None,
        typer.Option(help="A file of tombstones that lay elsewhere.", exists=True, dir_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fill an empty database from a backup, and prove that every row and artifact is the same.

    The database is the one of the settings, of any kind. It must be empty, or fresh from `migrate`; stop service and
    clock first. What was forgotten since the backup is forgotten again. Exit status: 0 done, 1 nothing was changed.
    """
    fits: bool | None = None
    if check:
        restored = restore.check(folder.absolute())
    else:
        given = settings()
        given.data_dir.mkdir(parents=True, exist_ok=True)
        stones = tombstone_file.read(given.data_dir / tombstone_file.NAME)
        stones += tombstone_file.read(tombstones) if tombstones is not None else []
        engine = reach(given)
        try:
            restored = restore.restore(engine, open_store(given), folder.absolute(), stones=stones)
        finally:
            engine.dispose()
        # It remembers the end of the trail that was here before.
        given.audit_head.unlink(missing_ok=True)
        # And what served then.
        shutil.rmtree(given.last_known, ignore_errors=True)
        if given.secret_key is None:
            restore.restore_secret(folder, restored.manifest, given.data_dir / SECRET)
        fits = _secret_fits(given, restored.manifest)
    if as_json:
        again = {"questions": restored.forgotten.questions, "texts": restored.forgotten.texts}
        print_json({**_facts(restored.manifest), "checked": check, "forgotten_again": again, "secret_fits": fits})
        return
    what = "The backup is good" if check else "Restored"
    console.print(
        f"{what}: {sum(table.rows for table in restored.manifest.tables.values())} rows and "
        f"{len(restored.manifest.artifacts)} artifacts of {restored.manifest.created_at:%Y-%m-%d %H:%M} UTC."
    )
    if restored.forgotten.questions:
        console.print(f"{restored.forgotten.questions} questions were forgotten again.")
    if fits is False:
        console.print(
            "This installation has not the secret that was backed up: users and repeated requests are not recognised. "
            "Set the former INTENTLOOP_SECRET_KEY, or put its secret.key into the data folder."
        )


def _secret_fits(given: Settings, manifest: Manifest) -> bool:
    """Whether the hashes of the backup were made with this installation's secret; without one a new one would be."""
    from app.main import installation_secret

    if given.secret_key is None and not (given.data_dir / SECRET).exists():
        return False
    return backup_format.fingerprint(installation_secret(given)) == manifest.secret_fingerprint


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "created_at": manifest.created_at,
        "release": manifest.release,
        "schema_revision": manifest.schema_revision,
        "database": manifest.database,
        "rows": {name: table.rows for name, table in manifest.tables.items()},
        "active": {domain: pointer.version for domain, pointer in manifest.active.items()},
        "artifacts": list(manifest.artifacts),
        "missing_artifacts": list(manifest.missing_artifacts.values()),
        "has_secret": manifest.has_secret,
    }
