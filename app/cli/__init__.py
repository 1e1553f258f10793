"""The command line: parse, open one transaction, call one service."""

import typer

from app.cli import (
    agreement,
    audit,
    backup,
    base_models,
    demo,
    doctor,
    exporting,
    forgetting,
    importing,
    keys,
    labels,
    models,
    recounting,
    rules,
    running,
    scenarios,
    simulate,
    taxonomy,
    taxonomy_changes,
    training,
)

app = typer.Typer(
    name="intentloop",
    help="Active learning for text classification around a database: log, label, train, prove, flip.\n\n"
    "Settings come from the environment (INTENTLOOP_…) or a .env file. Without any, everything lies in ./data.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

for module in (
    running, training, demo, simulate, importing, exporting, doctor, backup, forgetting, recounting, agreement,
):  # fmt: skip
    app.registered_commands.extend(module.app.registered_commands)
taxonomy.app.registered_commands.extend(taxonomy_changes.app.registered_commands)
app.add_typer(taxonomy.app, name="taxonomy")
models.app.registered_commands.extend(base_models.app.registered_commands)
app.add_typer(models.app, name="models")
app.add_typer(labels.app, name="labels")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(rules.app, name="rules")
app.add_typer(scenarios.app, name="scenarios")
