"""Show the versions of a domain, choose the one that serves, go back."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from app.artifacts.opening import open_store
from app.artifacts.plain_form import write_plain
from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.db.tables import ModelVersion
from app.errors import IntentError
from app.scorers.artifact import ArtifactUnusable
from app.services import activations, audit, domains, runs, versions

app = typer.Typer(help="Model versions: what there is, what serves, and the way back.", no_args_is_help=True)

ReasonOption = Annotated[str, typer.Option(help="Kept with the flip.")]


@app.command("list")
def list_models(
    domain: DomainOption = domains.DEFAULT,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the versions of a domain, the newest first."""

    def read(session: Session) -> list[dict[str, Any]]:
        found = domains.find(session, domain)
        chosen = found.generative_version_id
        return [
            _row(version) | {"is_generative": version.id == chosen}
            for version in versions.listing(session, found.id, limit=limit)
        ]

    with database(settings()) as work:
        rows = work.read(read)
    if as_json:
        print_json(rows)
        return
    table = Table("version", "status", "trained on", "gold", "macro-F1", "accuracy", "made", "reason")
    for row in rows:
        role = "active" if row["is_active"] else "generative" if row["is_generative"] else None
        name = f"[bold green]{row['version']} ({role})[/]" if role else row["version"]
        table.add_row(
            name,
            row["status"],
            str(row["train_count"]),
            str(row["gold_count"] or 0),
            figure(row["macro_f1"]),
            figure(row["accuracy"]),
            f"{row['created_at']:%Y-%m-%d %H:%M}",
            escape(row["reason"] or ""),
        )
    console.print(table)


@app.command("active")
def active_model(domain: DomainOption = domains.DEFAULT, as_json: JsonOption = False) -> None:
    """Print the version that should serve, and which services do serve it."""

    def read(session: Session) -> dict[str, Any]:
        found = domains.find(session, domain)
        activation = activations.current(session, found)
        version = versions.active(session, found)
        generative = versions.generative(session, found)
        spread = runs.spread(session, found)
        return {
            "version": version.version if version else None,
            "generative_version": generative.version if generative else None,
            "epoch": activation.epoch,
            "threshold": activation.threshold,
            "rule_set_revision": activation.rule_set_revision,
            "activated_by": activation.activated_by,
            "reason": activation.reason,
            "activated_at": activation.created_at,
            "propagated": spread.propagated,
            "replicas_arrived": spread.arrived,
            "replicas_alive": len(spread.replicas),
            "replicas": [asdict(replica) for replica in spread.replicas],
        }

    with database(settings()) as work:
        shown = work.read(read)
    if as_json:
        print_json(shown)
    else:
        console.print(
            f"{shown['version'] or 'rules alone'}, epoch {shown['epoch']}, threshold {shown['threshold']:.2f}, "
            f"by {shown['activated_by']}: {shown['reason']}",
            markup=False,
        )
        if shown["generative_version"]:
            console.print(f"asked again below the threshold: {shown['generative_version']}", markup=False)
        console.print(f"served by {shown['propagated']} services", markup=False)
        for replica in shown["replicas"]:
            serves = f"{replica['version'] or 'no model'}, epoch {replica['epoch']}"
            console.print(f"  {replica['replica']}  {serves}  {replica['error'] or ''}".rstrip(), markup=False)


@app.command("activate")
def activate_model(
    version: Annotated[str, typer.Argument(help="Name of the version.")],
    reason: ReasonOption = "activated by hand",
    force: Annotated[bool, typer.Option("--force", help="Also a version that the gate refused.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve a version from now on; every running service has it within a second."""

    def flip(session: Session) -> int:
        activation = activations.activate(session, version, by="command line", reason=reason, force=force)
        audit.note_flip(session, audit.COMMAND_LINE, "version.activate", activation)
        return activation.epoch

    with database(settings()) as work:
        epoch = work(flip)
    if as_json:
        print_json({"version": version, "epoch": epoch})
    else:
        console.print(f"{version} serves, epoch {epoch}.")


@app.command("rollback")
def rollback_model(
    domain: DomainOption = domains.DEFAULT,
    reason: ReasonOption = "rolled back by hand",
    as_json: JsonOption = False,
) -> None:
    """Serve the version before this one again, exactly as it was. Once more goes one further back."""

    def back(session: Session) -> tuple[str, int]:
        activation = activations.rollback(session, domain, by="command line", reason=reason)
        audit.note_flip(session, audit.COMMAND_LINE, "version.rollback", activation)
        version = session.get(ModelVersion, activation.version_id)
        return (version.version if version else "", activation.epoch)

    with database(settings()) as work:
        name, epoch = work(back)
    if as_json:
        print_json({"version": name, "epoch": epoch})
    else:
        console.print(f"{name} serves again, epoch {epoch}.")


@app.command("export")
def export_model(
    version: Annotated[str, typer.Argument(help="Name of the version.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    as_json: JsonOption = False,
) -> None:
    """Write a version with an ONNX graph for programs without intentloop, with one that shows how it is asked.

    The graph, its tokenizer, the head, the labels, and `classify.py`, which needs onnxruntime, tokenizers and numpy.
    Personal data is masked by the service and not by that program.
    """

    def read(session: Session) -> tuple[str, dict[int, str]]:
        found = versions.find(session, version)
        return found.artifact_digest, domains.label_paths(session, found.domain_id)

    given = settings()
    with database(given) as work:
        digest, paths = work.read(read)
    try:
        write_plain(open_store(given).fetch(digest), digest, out, paths=paths)
    except ArtifactUnusable as error:
        raise IntentError(f"{version} cannot be exported: {error}") from error
    if as_json:
        print_json({"version": version, "folder": str(out), "artifact_digest": digest})
    else:
        console.print(f"{version} lies in {out}; python classify.py there shows how it is asked.", markup=False)


def figure(value: Any) -> str:
    """A measured value with its interval, as the evaluation holds it, in few characters."""
    if isinstance(value, dict):
        point, low, high = value.get("value"), value.get("low"), value.get("high")
        if point is None:
            return "–"
        return f"{point:.3f}" if low is None else f"{point:.3f} ({low:.3f}–{high:.3f})"
    return "–" if value is None else f"{value:.3f}"


def _row(version: ModelVersion) -> dict[str, Any]:
    gold = version.evaluation.get("gold") or {}
    return {
        "version": version.version,
        "status": version.status,
        "is_active": bool(version.is_active),
        "recipe": version.recipe,
        "train_count": version.train_count,
        "gold_count": gold.get("count"),
        "macro_f1": gold.get("macro_f1"),
        "accuracy": gold.get("accuracy"),
        "threshold": version.threshold,
        "reason": version.reason,
        "created_at": version.created_at,
    }
