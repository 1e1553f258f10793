"""Say what further labels would bring."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from sqlalchemy.orm import Session

from app.cli.models import figure
from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.cli.worth_plot import draw_worth
from app.db.tables import ModelVersion
from app.services import domains, versions, worth
from app.simulation.plot import PlotUnavailable, check_plot

app = typer.Typer(help="Labels: what further ones are worth.", no_args_is_help=True)


@app.command("worth")
def labels_worth(
    domain: DomainOption = domains.DEFAULT,
    target: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="macro-F1 that is wanted  [default: 95 % of what the curve comes to]"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="write the learning curve: .svg, .png or .pdf")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the learning curve of a domain: labels still needed, the gain of the next 100, and when to stop.

    Exit status: 0 done, 1 there is no such domain, 2 the plot cannot be written.
    """
    if plot is not None:
        try:
            check_plot(plot)
        except PlotUnavailable as error:
            raise typer.BadParameter(str(error)) from error

    def read(session: Session) -> list[ModelVersion]:
        return list(versions.listing(session, domains.find(session, domain).id, limit=worth.MOST_VERSIONS))

    with database(settings()) as work:
        newest_first = work.read(read)
    told = worth.of_versions(newest_first, target=target)
    if plot is not None:
        series, curve = worth.curve_of(newest_first)
        wanted = told["target"]["macro_f1"] if told["target"] else target
        points = [worth.point_of(version) for version in series]
        draw_worth(points, curve, wanted, plot, title=f"{domain}: what labels are worth")
    if as_json:
        print_json(told)
    else:
        _print(told)


def _print(told: dict[str, Any]) -> None:
    if told["points"]:
        table = Table("version", "labels", "gold", "macro-F1", title=f"recipe {told['recipe']}")
        for point in told["points"]:
            table.add_row(point["version"], str(point["labels"]), str(point["gold_count"]), figure(point["macro_f1"]))
        console.print(table)
    for sentence in told["says"]:
        console.print(sentence, markup=False)
