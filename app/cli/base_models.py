"""Pretrained models: fetch them, show what is here, and say which one a domain trains from, and how."""

import logging
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from app.artifacts import base_models
from app.artifacts.base_models import classifier_labels
from app.cli.opening import DomainOption, JsonOption, console, database, log_to_stderr, print_json, settings
from app.cli.running import context, stopped_by_signals
from app.cli.training import end_with
from app.errors import IntentError
from app.intent.recipes import RECIPES
from app.intent.taxonomy import TaxonomyInvalid, parse_taxonomy
from app.services import audit, batches, domains, frozen_batches, taxonomy

# Their names stand under `intentloop models`.
app = typer.Typer()


class Hub(StrEnum):
    """Where pretrained models come from."""

    HUGGINGFACE = "huggingface"
    MODELSCOPE = "modelscope"


@app.command("pull")
def pull_base(
    name: Annotated[str, typer.Argument(help="'owner/model' on the hub, or the full path of a folder.")],
    hub: Annotated[Hub, typer.Option(help="Where it comes from.")] = Hub.HUGGINGFACE,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a pretrained model that recipes can start from: weights as safetensors, and no code of its own."""
    try:
        pulled = base_models.pull(name, settings().bases, hub=hub.value, revision=revision)
    except base_models.BaseModelUnusable as error:
        raise IntentError(str(error)) from error
    if as_json:
        print_json(_base(pulled))
    else:
        console.print(f"{pulled.name}: {pulled.kind}, {_mib(pulled.size)}, {pulled.digest[:12]}", markup=False)


@app.command("base")
def list_bases(as_json: JsonOption = False) -> None:
    """Print the pretrained models on this machine, with their sizes and hashes."""
    found = base_models.listing(settings().bases)
    if as_json:
        print_json([_base(model) for model in found])
        return
    table = Table("name", "kind", "size", "hash")
    for model in found:
        table.add_row(escape(model.name), escape(model.kind), _mib(model.size), model.digest[:12])
    console.print(table if found else "There is none yet: run `intentloop models pull NAME`.")


@app.command("import")
def import_classifier(
    folder: Annotated[Path, typer.Argument(help="A classifier as AutoModelForSequenceClassification saves it.")],
    create_labels: Annotated[
        bool, typer.Option("--create-labels", help="Add the labels that the taxonomy does not have.")
    ] = False,
    domain: DomainOption = domains.DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Register a classifier that was trained elsewhere as a version of a domain, proved as any other.

    Its labels are those of `id2label`, which must be paths of the taxonomy. Recipes then start from it: it becomes the
    domain's base model. Without a labelled text nothing proves it, and a person activates it with `--force`.
    Exit status: 0 it became a version, whether or not it passed the gate; 1 it cannot be served.
    """
    given = settings()
    log_to_stderr(logging.ERROR)
    try:
        pulled = base_models.pull(str(folder.resolve()), given.bases)
        labels = parse_taxonomy(classifier_labels(pulled.folder))
    except (base_models.BaseModelUnusable, TaxonomyInvalid) as error:
        raise IntentError(str(error)) from error

    def opened(session: Session) -> str:
        found = domains.locked(session, domain)
        for label in labels if create_labels else ():
            taxonomy.add(session, found, label.path)
        before, after = domains.change(session, domain, {"base_model": pulled.name})
        batch = frozen_batches.open_import(session, domain, pulled.name, opened_by="person")
        audit.note(
            session, audit.COMMAND_LINE, "version.import", batch.batch_id, domain_id=found.id, before=before,
            after={**after, "digest": pulled.digest},
        )  # fmt: skip
        return batches.run(session, batch.batch_id).batch_id

    with database(given) as work:
        within = replace(context(given, work), stopping=stopped_by_signals())
        end_with(within, work(opened), as_json=as_json)


@app.command("recipe")
def choose_recipe(
    recipe: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(RECIPES)}.")] = None,
    base: Annotated[str | None, typer.Option(help="Name or folder of the pretrained model to start from.")] = None,
    domain: DomainOption = domains.DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Say how the batches of a domain are trained, and from which base model; without an argument print it."""
    if recipe is not None and recipe not in RECIPES:
        raise typer.BadParameter(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    given = settings()
    if base is not None:
        if "/" in base and Path(base).is_dir():
            base = str(Path(base).resolve())
        try:
            base_models.find(base, given.bases)
        except base_models.BaseModelUnusable as error:
            raise IntentError(str(error)) from error
    changes = {field: value for field, value in (("recipe", recipe), ("base_model", base)) if value is not None}

    def act(session: Session) -> dict[str, Any]:
        if changes:
            before, after = domains.change(session, domain, changes)
            found = domains.find(session, domain)
            if after:
                audit.note(
                    session, audit.COMMAND_LINE, "domain.change", domain, domain_id=found.id, before=before, after=after
                )
        found = domains.find(session, domain)
        return {"domain": found.name, "recipe": found.recipe, "base_model": found.base_model}

    with database(given) as work:
        shown = work(act) if changes else work.read(act)
    if as_json:
        print_json(shown)
    else:
        base_in_words = f" from {shown['base_model']}" if shown["base_model"] else ""
        console.print(f"{shown['domain']} trains with {shown['recipe']}{base_in_words}.", markup=False)


def _base(model: base_models.BaseModel) -> dict[str, Any]:
    return {"name": model.name, "kind": model.kind, "bytes": model.size, "digest": model.digest}


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
