"""Pretrained models: fetch them, show what is here, and say which one a domain trains from, and how."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from app.artifacts import base_models
from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.errors import IntentError
from app.intent.recipes import RECIPES
from app.services import audit, domains

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
