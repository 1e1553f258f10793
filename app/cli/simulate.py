"""`intentloop simulate`: play the loop on a labelled file, and say how well it learned."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.artifacts import base_models
from app.exchange.labelled import BadRow, LabelledRow, UnreadableFile, read_labelled
from app.intent.recipes import GENERATIVE, RECIPES, WITH_BASE
from app.simulation import loop
from app.simulation.client import Client, LoopFailed
from app.simulation.curve import json_line, summary
from app.simulation.display import ProgressWatch
from app.simulation.oracle import truths
from app.simulation.plot import PlotUnavailable, check_plot, draw
from app.simulation.service import DATABASE, ended_by_signals, running_service

app = typer.Typer()

FAILED, USAGE = 1, 2
# The generative route answers beside another one, and never alone.
LOOPED = tuple(recipe for recipe in RECIPES if recipe not in GENERATIVE)

_ERRORS = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@app.command()
def simulate(
    train: Annotated[Path, typer.Option(help="labelled texts to ask and to label: JSON lines, JSON or CSV, also .gz")],
    test: Annotated[
        Path, typer.Option(help="labelled texts to measure each version on; never labelled, never trained")
    ],
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, help="labels that open a batch  [default: 100, or 8 % of the train file if that is more]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="order in which the train texts are asked")] = 0,
    max_labels: Annotated[int | None, typer.Option(min=2, help="stop after so many labels")] = None,
    recipe: Annotated[str | None, typer.Option(help=f"how to train: {', '.join(LOOPED)}  [default: ngram]")] = None,
    base: Annotated[Path | None, typer.Option(help="folder of the pretrained model to start from")] = None,
    plot: Annotated[Path | None, typer.Option(help="write the learning curve: .svg, .png or .pdf")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="keep database, artifacts and log here  [default: a folder that is removed]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="end with one line of JSON on stdout")] = False,
) -> None:
    """Play the whole loop over HTTP on a labelled file.

    Starts a service and a clock of its own on SQLite, asks every train text, labels them batch by batch as
    the queue orders them, and measures each version that the gate lets through on the test file. Rows are
    {"text", "label"}, {"text", "labels": [levels]} or {"user_input", "intent_code"}.

    Exit status: 0 done, 1 the loop failed, 2 the files or options are wrong.
    """
    try:
        if plot is not None:
            check_plot(plot)
        train_rows, test_rows = _rows(train), _rows(test)
        _check_labels(train_rows, test_rows)
        if data_dir is not None and (data_dir / DATABASE).exists():
            raise UnreadableFile(f"{data_dir} holds a database already: name a new folder")
        base = _base(recipe, base)
    except (UnreadableFile, PlotUnavailable) as error:
        _ERRORS.print(str(error), style="red")
        raise typer.Exit(USAGE) from error
    size = batch_size or loop.default_batch_size(len(train_rows))
    plan = loop.Plan(train_rows, test_rows, size, seed, max_labels, recipe, str(base) if base else None)
    try:
        outcome, failed = _played(plan, data_dir)
    except LoopFailed as error:
        _ERRORS.print(f"the loop failed: {error}", style="red")
        raise typer.Exit(FAILED) from error
    if plot is not None:
        title = f"{train.resolve().parent.name}/{train.name}: what the loop learned"
        draw(outcome.curve, plot, title=title, test_size=len(test_rows))
    figures = summary(outcome.curve, labels=outcome.labels, versions=outcome.versions, failed_requests=failed)
    if as_json:
        sys.stdout.write(json_line(figures) + "\n")
    else:
        typer.echo(
            f"accuracy {figures['accuracy']:.4f}, macro-F1 {figures['macro_f1']:.4f} on {len(test_rows)} texts "
            f"after {outcome.labels} labels; {outcome.versions} versions, {outcome.refused} refused; "
            f"{failed} failed requests"
        )
    if failed:
        raise typer.Exit(FAILED)


def _played(plan: loop.Plan, data_dir: Path | None) -> tuple[loop.Outcome, int]:
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        folder = stack.enter_context(_folder(data_dir))
        service = stack.enter_context(running_service(folder, loop.settings(plan.batch_size)))
        client = stack.enter_context(Client(service.address).open())
        watch = stack.enter_context(ProgressWatch(_ERRORS).running())
        return loop.play(client, plan, watch), client.failed


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="intentloop-simulate-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _base(recipe: str | None, base: Path | None) -> Path | None:
    """The full path of the base model, which the recipe can start from."""
    if recipe is not None and recipe not in LOOPED:
        raise typer.BadParameter(f"there is no recipe {recipe!r} to simulate; there are {', '.join(LOOPED)}")
    if recipe in WITH_BASE and base is None:
        raise typer.BadParameter(f"the recipe {recipe!r} starts from a base model: name its folder with --base")
    if base is None:
        return None
    try:
        return base_models.find(str(base.resolve()), base)
    except base_models.BaseModelUnusable as error:
        raise typer.BadParameter(str(error)) from error


def _rows(path: Path) -> list[LabelledRow]:
    """The rows that can be used; the others are counted on the error stream.

    Raises:
        UnreadableFile: also when no row can be used.
    """
    rows: list[LabelledRow] = []
    bad: list[BadRow] = []
    for row in read_labelled(path):
        if isinstance(row, LabelledRow):
            rows.append(row)
        else:
            bad.append(row)
    first = f"; the first: line {bad[0].line}: {bad[0].reason}" if bad else ""
    if not rows:
        raise UnreadableFile(f"{path.name} has no row that can be used{first}")
    if bad:
        _ERRORS.print(f"{path.name}: {len(bad)} rows left out{first}")
    return rows


def _check_labels(train: list[LabelledRow], test: list[LabelledRow]) -> None:
    labels = set(truths(train).values())
    if len(labels) < 2:
        raise UnreadableFile("the train file has one label; a classifier needs two")
    unknown = [row for row in test if row.label not in labels]
    if unknown:
        _ERRORS.print(
            f"{len(unknown)} test texts have a label that the train file lacks: they count as errors",
            highlight=False,
        )
