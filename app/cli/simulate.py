"""`intentloop simulate`: play the loop, or strategies alone, on labelled texts, and say how well it learned."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.artifacts import base_models
from app.cli.simulate_strategies import REPLAYED, Contest, described, history, play
from app.exchange.labelled import BadRow, LabelledRow, UnreadableFile, read_labelled
from app.intent.recipes import GENERATIVE, RECIPES, WITH_BASE
from app.intent.strategies import STRATEGIES
from app.simulation import loop
from app.simulation.client import Client, LoopFailed
from app.simulation.curve import json_line, summary
from app.simulation.display import ProgressWatch
from app.simulation.oracle import truths
from app.simulation.plot import PlotUnavailable, check_plot, draw, draw_strategies
from app.simulation.service import DATABASE, ended_by_signals, running_service
from app.simulation.strategy_report import lines, mean_curve, report

app = typer.Typer()

FAILED, USAGE = 1, 2
# The generative route answers beside another one, and never alone.
LOOPED = tuple(recipe for recipe in RECIPES if recipe not in GENERATIVE)

_ERRORS = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


_Train = Annotated[
    Path | None, typer.Option(help="labelled texts to ask and to label: JSON lines, JSON or CSV, also .gz")
]
_Test = Annotated[
    Path | None, typer.Option(help="labelled texts to measure each version on; never labelled, never trained")
]
_Batch = Annotated[
    int | None,
    typer.Option(min=2, help="labels that open a batch  [default: 100, or 8 % of the train file if that is more]"),
]
_Seed = Annotated[int, typer.Option(help="order in which the train texts are asked; with --strategies the first seed")]
_MaxLabels = Annotated[int | None, typer.Option(min=2, help="stop after so many labels")]
_Recipe = Annotated[str | None, typer.Option(help=f"how to train: {', '.join(LOOPED)}  [default: ngram]")]
_Base = Annotated[Path | None, typer.Option(help="folder of the pretrained model to start from")]
_Plot = Annotated[Path | None, typer.Option(help="write the learning curve: .svg, .png or .pdf")]
_DataDir = Annotated[
    Path | None,
    typer.Option(help="keep database, artifacts and log here  [default: a folder that is removed]"),
]
_Strategies = Annotated[
    str | None, typer.Option(help=f"compare these, by commas, without a service: mix, {', '.join(STRATEGIES)}")
]
_Seeds = Annotated[int, typer.Option(min=1, max=100, help="with --strategies: runs of each")]
_Domain = Annotated[
    str | None,
    typer.Option("--domain", "-d", help="with --strategies: this domain's labelled texts, its gold as the test"),
]
_Json = Annotated[bool, typer.Option("--json", help="end with one line of JSON on stdout")]


@app.command()
def simulate(
    train: _Train = None,
    test: _Test = None,
    batch_size: _Batch = None,
    seed: _Seed = 0,
    max_labels: _MaxLabels = None,
    recipe: _Recipe = None,
    base: _Base = None,
    plot: _Plot = None,
    data_dir: _DataDir = None,
    strategies: _Strategies = None,
    seeds: _Seeds = 5,
    domain: _Domain = None,
    as_json: _Json = False,
) -> None:
    """Play the whole loop over HTTP on a labelled file, or compare strategies of selection on it.

    Starts a service and a clock of its own on SQLite, asks every train text, labels them batch by batch as
    the queue orders them, and measures each version that the gate lets through on the test file. Rows are
    {"text", "label"}, {"text", "labels": [levels]} or {"user_input", "intent_code"}.

    With --strategies there is no service: each strategy chooses batch by batch from the train texts, a plain
    classifier of the recipe is fitted and measured on the test texts, and the labels needed are compared.

    Exit status: 0 done, 1 the loop failed, 2 the files or options are wrong.
    """
    try:
        if plot is not None:
            check_plot(plot)
        contest = _contest(strategies, seeds, seed, max_labels, recipe)
        name, train_rows, test_rows = _material(train, test, domain, has_service=contest is None)
        if data_dir is not None and (data_dir / DATABASE).exists():
            raise UnreadableFile(f"{data_dir} holds a database already: name a new folder")
        base = _base(recipe, base)
    except (UnreadableFile, PlotUnavailable) as error:
        _ERRORS.print(str(error), style="red")
        raise typer.Exit(USAGE) from error
    size = batch_size or loop.default_batch_size(len(train_rows))
    if contest is not None:
        _compare(
            train_rows,
            test_rows,
            replace(contest, batch=size, base=base if recipe == "head" else None),
            plot,
            name,
            as_json=as_json,
        )
    else:
        plan = loop.Plan(train_rows, test_rows, size, seed, max_labels, recipe, str(base) if base else None)
        _play(plan, data_dir, plot, name, as_json=as_json)


def _material(
    train: Path | None, test: Path | None, domain: str | None, *, has_service: bool
) -> tuple[str, list[LabelledRow], list[LabelledRow]]:
    """What the texts are called, those to label and those to measure on.

    Raises:
        UnreadableFile: there is too little of them.
    """
    if domain is not None and train is None and test is None and not has_service:
        name, rows = domain, history(domain)
    elif domain is None and train is not None and test is not None:
        name, rows = f"{train.resolve().parent.name}/{train.name}", (_rows(train), _rows(test))
    else:
        raise UnreadableFile("name --train and --test, or, with --strategies, a --domain instead")
    _check_labels(*rows)
    return name, *rows


def _play(plan: loop.Plan, data_dir: Path | None, plot: Path | None, name: str, *, as_json: bool) -> None:
    try:
        outcome, failed = _played(plan, data_dir)
    except LoopFailed as error:
        _ERRORS.print(f"the loop failed: {error}", style="red")
        raise typer.Exit(FAILED) from error
    if plot is not None:
        draw(outcome.curve, plot, title=f"{name}: what the loop learned", test_size=len(plan.test))
    figures = summary(outcome.curve, labels=outcome.labels, versions=outcome.versions, failed_requests=failed)
    if as_json:
        sys.stdout.write(json_line(figures) + "\n")
    else:
        typer.echo(
            f"accuracy {figures['accuracy']:.4f}, macro-F1 {figures['macro_f1']:.4f} on {len(plan.test)} texts "
            f"after {outcome.labels} labels; {outcome.versions} versions, {outcome.refused} refused; "
            f"{failed} failed requests"
        )
    if failed:
        raise typer.Exit(FAILED)


def _contest(
    strategies: str | None, seeds: int, seed: int, max_labels: int | None, recipe: str | None
) -> Contest | None:
    """What `--strategies` asks for; None without it."""
    if strategies is None:
        return None
    if recipe is not None and recipe not in REPLAYED:
        raise typer.BadParameter(f"strategies are compared with {' or '.join(REPLAYED)}, not with {recipe!r}")
    names = tuple(dict.fromkeys(name.strip() for name in strategies.split(",")))
    try:
        return Contest(names, tuple(range(seed, seed + seeds)), 0, max_labels)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--strategies") from error


def _compare(
    train: list[LabelledRow], test: list[LabelledRow], contest: Contest, plot: Path | None, name: str, *, as_json: bool
) -> None:
    found, full = play(train, test, contest, _ERRORS)
    figures = {**described(contest, train, test), **report(found, full)}
    if plot is not None:
        draw_strategies({name: mean_curve(runs) for name, runs in found.items()}, plot, title=name, full=full)
    if as_json:
        sys.stdout.write(json_line(figures) + "\n")
        return
    typer.echo(
        f"{figures['train_texts']} texts to choose from, {len(test)} to measure on, {contest.batch} labels a step, "
        f"{len(contest.seeds)} runs each; accuracy {full:.4f} with all labels"
    )
    for line in lines(figures):
        typer.echo(line)


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
        raise UnreadableFile("what is to be labelled has one label; a classifier needs two")
    unknown = [row for row in test if row.label not in labels]
    if unknown:
        _ERRORS.print(
            f"{len(unknown)} test texts have a label that no train text has: they count as errors",
            highlight=False,
        )
