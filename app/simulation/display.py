"""Show a running loop: a live table on a terminal, plain lines elsewhere, progress bars, words at the end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from app.simulation.client import Client
from app.simulation.curve import Point
from app.simulation.show import Screen
from app.simulation.versions import Account, Interval, RuleAccount, VersionRow

# Narrow enough for a terminal of 80 columns.
COLUMNS = (
    ("version", "left"),
    ("state", "left"),
    ("labels", "right"),
    ("gold", "right"),
    ("macro-F1 (95 %)", "right"),
    ("traffic", "right"),
    ("new", "right"),
    ("answered by", "left"),
)
LEGEND = (
    "labels it was trained on · gold texts it was judged on, and macro-F1 there · accuracy on the traffic since "
    "its flip / questions · accuracy on those never asked before"
)


def cells(row: VersionRow) -> tuple[str, ...]:
    """One row of the table, as `LEGEND` explains it."""
    tally = row.tally
    shares = [f"{method} {count / tally.asked:.0%}" for method, count in tally.methods.most_common()]
    return (
        row.version,
        row.state,
        str(row.labels) if row.labels else "–",
        str(row.gold) if row.labels else "–",
        _with_interval(row.macro_f1),
        f"{tally.accuracy:.0%} /{tally.asked}" if tally.accuracy is not None else "–",
        f"{tally.fresh_accuracy:.0%}" if tally.fresh_accuracy is not None else "–",
        ", ".join(shares) or "–",
    )


def _with_interval(figure: Interval | None) -> str:
    return f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})" if figure else "–"


def table(rows: Sequence[VersionRow], note: str, *, failed: int) -> Group:
    """The whole picture of one moment."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name, side in COLUMNS:
        drawn.add_column(name, justify="right" if side == "right" else "left", no_wrap=name != "answered by")
    for row in rows:
        drawn.add_row(*cells(row), style="bold green" if row.state == "serving" else None)
    counted = Text(f"failed requests: {failed}", style="bold red" if failed else "green")
    return Group(drawn, Text(LEGEND, style="dim"), Text(note), counted)


@contextmanager
def screen(console: Console, client: Client) -> Iterator[Screen]:
    """A live table on a terminal; elsewhere one plain line for each row that is over."""
    if not console.is_terminal:
        plain = PlainScreen(console, client)
        yield plain
        plain.finish()
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda rows, note: live.update(table(rows, note, failed=client.failed))


class PlainScreen:
    """Prints a row once nothing will be added to it."""

    def __init__(self, console: Console, client: Client) -> None:
        self._console = console
        self._client = client
        self._printed: set[str] = set()
        self._rows: Sequence[VersionRow] = ()
        self._console.print(LEGEND, soft_wrap=True, highlight=False, markup=False)
        self._print([name for name, _ in COLUMNS] + ["failed requests"])

    def __call__(self, rows: Sequence[VersionRow], _note: str) -> None:
        """Print what is over since the last time."""
        self._rows = rows
        for row in rows:
            if row.over and row.version not in self._printed:
                self._row(row)

    def finish(self) -> None:
        """Print what is left."""
        for row in self._rows:
            if row.version not in self._printed:
                self._row(row)

    def _row(self, row: VersionRow) -> None:
        self._printed.add(row.version)
        self._print([*cells(row), str(self._client.failed)])

    def _print(self, texts: Sequence[str]) -> None:
        self._console.print(" | ".join(texts), soft_wrap=True, highlight=False, markup=False)


def story(told: Account) -> list[str]:
    """What was learned, in words."""
    lines: list[str] = []
    if told.first and told.last:
        lines.append(
            f"Accuracy on the traffic: {_change(told.first.tally.accuracy, told.last.tally.accuracy)} from the first "
            f"version to the last, by {told.labels} labels; on texts never asked before: "
            f"{_change(told.first.tally.fresh_accuracy, told.last.tally.fresh_accuracy)}."
        )
    lines.append(f"{told.versions} versions were trained, {told.refused} of them refused by the gate.")
    lines += _of_rules(told.rules) if told.rules else []
    if told.confused:
        pairs = "; ".join(f"{_leaf(truth)} taken for {_leaf(answer)} ({n}×)" for truth, answer, n in told.confused)
        lines.append(f"It still confuses: {pairs}.")
    lines.append(f"{told.asked} questions were answered; {told.failed} of {told.requests} requests failed.")
    lines += [f"  {what}: {count}×" for what, count in told.failures.items()]
    return lines


def _of_rules(rules: RuleAccount) -> list[str]:
    lines = []
    if rules.answered_without_model:
        lines.append(
            f"Before the first version rules answered {rules.answered_without_model} of {rules.asked_without_model} "
            f"questions, {_share(rules.right_without_model, rules.answered_without_model)} of those rightly."
        )
    lines.append(
        f"{rules.by_hand} rules by hand and {rules.mined} mined ones serve, {rules.waiting} wait for a person. They "
        f"matched {rules.used} times; of {rules.judged} such texts that were labelled, the unsure ones first, "
        f"{_share(rules.agreed, rules.judged)} agreed."
    )
    if rules.with_rules is not None and rules.model_alone is not None:
        lines.append(
            f"Macro-F1 on gold of the last version: {rules.model_alone:.3f} by the model alone, "
            f"{rules.with_rules:.3f} with the rules."
        )
    if rules.best:
        used = "; ".join(f"{word} → {_leaf(label)} ({times}×, {source})" for word, label, times, source in rules.best)
        lines.append(f"Most used: {used}.")
    return lines


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _change(first: float | None, last: float | None) -> str:
    return " → ".join("–" if share is None else f"{share:.1%}" for share in (first, last))


def _leaf(label: str) -> str:
    return label.rsplit(" > ", 1)[-1]


def addresses(address: str) -> list[str]:
    """Where to look on."""
    loop = f"{address}/api/v1/model-tuning"
    return [
        f"API documentation  {address}/docs",
        f"figures            {loop}/stats",
        f"queue to label     {loop}/questions/unlabeled?limit=10",
    ]


class ProgressWatch:
    """A progress bar for what runs now, and a line for each version."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    @contextmanager
    def running(self) -> "Iterator[ProgressWatch]":
        """Draw the bar until the block ends."""
        with self._bar:
            yield self

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a bar; without a total it only moves."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total)

    def advance(self, steps: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.advance(self._task, steps)

    def progress(self, name: str, done: float) -> None:
        """Set the bar to a share in [0, 1]."""
        if self._task is not None:
            self._bar.update(self._task, description=name, total=100, completed=round(100 * done))

    def measured(self, point: Point) -> None:
        """Say what a version scores."""
        self._console.print(
            f"{point.labels} labels: accuracy {point.scores.accuracy:.4f}, "
            f"macro-F1 {point.scores.macro_f1:.4f} ({point.version})",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def refused(self, batch: Mapping[str, Any], reason: str) -> None:
        """Say what the gate refused, and why."""
        said = f"{batch['model_version']} was refused: {reason}"
        self._console.print(said, highlight=False, markup=False, soft_wrap=True)
