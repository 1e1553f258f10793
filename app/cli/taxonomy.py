"""Show and import the labels of a domain."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.tree import Tree
from sqlalchemy.orm import Session

from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.errors import TaxonomyRefused
from app.intent.taxonomy import TaxonomyInvalid, parse_taxonomy, split
from app.services import audit, domains, taxonomy

app = typer.Typer(help="The labels of a domain.", no_args_is_help=True)

MOST_BYTES = 16 * 1024 * 1024


@app.command("import")
def import_taxonomy(
    file: Annotated[Path, typer.Argument(help="labels.yaml or .json.", exists=True, dir_okay=False)],
    domain: DomainOption = domains.DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Make these the labels of a domain: new ones are added, known ones keep their id, missing ones are retired.

    Nested: `root: {硬件故障: {电源问题: [无法开机]}}`, or a flat list of labels.
    """
    try:
        specs = parse_taxonomy(read_document(file))
    except TaxonomyInvalid as error:
        raise TaxonomyRefused(f"{file}: {error}") from error

    def replace(session: Session) -> int:
        found = domains.locked(session, domain)
        before = taxonomy.summary(session, found)
        labels = taxonomy.replace(session, found, specs)
        after = taxonomy.summary(session, found)
        audit.note(
            session, audit.COMMAND_LINE, "taxonomy.replace", domain, domain_id=found.id, before=before, after=after
        )
        return len(labels)

    with database(settings()) as work:
        count = work(replace)
    if as_json:
        print_json({"domain": domain, "labels": count})
    else:
        console.print(f"Domain {domain} has {count} labels.")


@app.command("show")
def show_taxonomy(domain: DomainOption = domains.DEFAULT, as_json: JsonOption = False) -> None:
    """Print the labels of a domain as a tree."""

    def read(session: Session) -> list[str]:
        return [label.path for label in taxonomy.active(session, domains.find(session, domain).id)]

    with database(settings()) as work:
        paths = work.read(read)
    if as_json:
        print_json({"domain": domain, "labels": paths})
        return
    tree = Tree(f"{domain} ({len(paths)} labels)")
    branches: dict[tuple[str, ...], Tree] = {(): tree}
    for path in paths:
        levels = tuple(split(path))
        for depth in range(1, len(levels) + 1):
            if levels[:depth] not in branches:
                branches[levels[:depth]] = branches[levels[: depth - 1]].add(escape(levels[depth - 1]))
    console.print(tree)


def read_document(file: Path) -> Any:
    """A YAML or JSON file as plain values; no tags, no code.

    Raises:
        TaxonomyRefused: it is too large or cannot be read.
    """
    if file.stat().st_size > MOST_BYTES:
        raise TaxonomyRefused(f"{file} is larger than {MOST_BYTES} bytes")
    try:
        content = file.read_text(encoding="utf-8-sig")
        return json.loads(content) if file.suffix == ".json" else yaml.safe_load(content)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise TaxonomyRefused(f"{file} is no YAML or JSON that can be read: {type(error).__name__}") from error
