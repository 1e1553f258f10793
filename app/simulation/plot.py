"""Draw learning curves; matplotlib is loaded only here, and only when a plot is asked for."""

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from app.simulation.curve import Curve
from app.simulation.strategy_report import MeanCurve

SUFFIXES: Final = (".svg", ".png", ".pdf")


class PlotUnavailable(ValueError):
    """The plot cannot be drawn; the message says what to do."""


def check_plot(path: Path) -> None:
    """Refuse a plot before the work begins and not after it.

    Raises:
        PlotUnavailable: matplotlib is not installed, the kind of file is unknown, or its folder is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PlotUnavailable(f"a plot is written as {', '.join(SUFFIXES)}, not as {path.suffix or 'a bare name'}")
    if find_spec("matplotlib") is None:
        raise PlotUnavailable("plots need matplotlib: pip install 'intentloop[plot]'")
    if not path.parent.is_dir():
        raise PlotUnavailable(f"there is no folder {path.parent}")


def draw(curve: Curve, path: Path, *, title: str, test_size: int) -> None:
    """Write accuracy and macro-F1 over the number of labels, one point per measured version."""
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    labels = [point.labels for point in curve.points]
    accuracy = [point.scores.accuracy for point in curve.points]
    macro_f1 = [point.scores.macro_f1 for point in curve.points]
    with matplotlib.rc_context({"svg.hashsalt": "intentloop", "svg.fonttype": "path"}):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for name, values, style in (("accuracy", accuracy, "o-"), ("macro-F1", macro_f1, "s--")):
            last = f", {values[-1]:.4f} at the end" if values else ""
            axes.plot(labels, values, style, label=name + last, markersize=4)
        axes.set(title=title, xlabel="labels given", ylabel=f"on {test_size:,} test texts")
        axes.set_xlim(left=0)
        # Down to the tenth below the smallest value: the curve fills the picture, and the axis says where it begins.
        axes.set_ylim(math.floor(min([*accuracy, *macro_f1], default=0.0) * 10) / 10, 1.0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def draw_strategies(curves: Mapping[str, MeanCurve], path: Path, *, title: str, full: float) -> None:
    """Write the accuracy of each strategy over the number of labels, with its interval over the seeds.

    `full`: the accuracy with all labels, drawn as a line, and 95 % of it as a thinner one.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "intentloop", "svg.fonttype": "path"}):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            # Ten colours; past them the dashes tell.
            style, colour = ("-", "--", ":")[number // 10 % 3], f"C{number % 10}"
            axes.plot(curve.labels, curve.mean, style, color=colour, label=name, linewidth=1.4)
            axes.fill_between(curve.labels, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(full, color="grey", linewidth=1.0)
        axes.axhline(0.95 * full, color="grey", linewidth=0.6, linestyle="--")
        axes.set(title=title, xlabel="labels given", ylabel="accuracy on the test texts")
        axes.set_xlim(left=0)
        lowest = min([float(curve.low.min()) for curve in curves.values()], default=0.0)
        axes.set_ylim(math.floor(lowest * 10) / 10, 1.0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
