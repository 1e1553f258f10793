"""`intentloop demo`: watch a classifier retrain itself from its own traffic while it serves."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.simulation.client import Client, LoopFailed
from app.simulation.display import addresses, screen, story
from app.simulation.service import DATABASE, Service, ended_by_signals, free_port, running_service
from app.simulation.show import Pace, settings, show

app = typer.Typer()

FAILED, USAGE = 1, 2
KEPT = Path("demo-data")


@app.command()
def demo(
    keep: Annotated[
        bool,
        typer.Option("--keep", help="leave the service running afterwards, until Ctrl-C; keeps the data"),
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="port of the service  [default: 8001 or a free one]")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="keep the data here  [default: a folder that is removed, or demo-data with --keep]"),
    ] = None,
    labels: Annotated[int, typer.Option(min=130, help="labels that the labeler gives; fewer end sooner")] = 900,
    seed: Annotated[int, typer.Option(help="order of the questions")] = 0,
) -> None:
    """Run the loop on the bundled sample domain, over HTTP alone, in about a minute and a half.

    Traffic goes to POST /classify without a pause; one labeler leases texts and answers them; the clock
    opens batches, trains, proves and flips meanwhile. A row of the table is a version: the labels it was
    trained on, its macro-F1 on gold (texts that nothing is ever trained on), its accuracy on the traffic
    since its flip, and on those texts of it that were never asked before.

    Exit status: 0 done, 1 a request or the loop failed, 2 the folder cannot be used.
    """
    console = Console()
    if keep and data_dir is None:
        data_dir = KEPT
    if data_dir is not None and (data_dir / DATABASE).exists():
        typer.echo(
            f"{data_dir} holds a database already: remove the folder or name another with --data-dir",
            err=True,
        )
        raise typer.Exit(USAGE)
    try:
        failed = _run(console, Pace(labels=labels), keep=keep, port=port, data_dir=data_dir, seed=seed)
    except LoopFailed as error:
        typer.echo(f"the demo failed: {error}", err=True)
        raise typer.Exit(FAILED) from error
    if failed:
        raise typer.Exit(FAILED)


def _run(console: Console, pace: Pace, *, keep: bool, port: int | None, data_dir: Path | None, seed: int) -> int:
    """The number of failed requests."""
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        folder = stack.enter_context(_folder(data_dir))
        service = stack.enter_context(running_service(folder, settings(pace), port=port or free_port(8001)))
        client = stack.enter_context(Client(service.address).open())
        _print(console, f"the service and its clock run at {service.address}")
        with screen(console, client) as shown:
            told = show(client, shown, pace=pace, seed=seed)
        for line in ["", *story(told), "", *addresses(service.address)]:
            _print(console, line)
        if keep:
            _keep_running(console, service)
        else:
            _print(console, "The service ends now; `intentloop demo --keep` leaves it running.")
        return told.failed


def _keep_running(console: Console, service: Service) -> None:
    _print(console, f"The service keeps running on {service.data_dir}; Ctrl-C ends it.")
    try:
        while service.process.poll() is None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        return
    raise LoopFailed(f"the service ended by itself; see {service.log}")


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="intentloop-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
