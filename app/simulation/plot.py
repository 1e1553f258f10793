"""Draw learning curves; matplotlib is loaded only here, and only when a plot is asked for."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from app.simulation.curve import Curve

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
    with matplotlib.rc_context({"svg.hashsalt": "intentloop", "svg.fonttype": "path"}):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for name, values, style in (
            ("accuracy", [point.scores.accuracy for point in curve.points], "o-"),
            ("macro-F1", [point.scores.macro_f1 for point in curve.points], "s--"),
        ):
            axes.plot(labels, values, style, label=name, markersize=4)
            if values:
                axes.annotate(f"{values[-1]:.3f}", (labels[-1], values[-1]), **_offset(name))
        axes.set(title=title, xlabel="labels given", ylabel=f"on {test_size:,} test texts")
        axes.set_xlim(left=0)
        axes.set_ylim(_floor([point.scores.accuracy for point in curve.points]), 1.0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _offset(name: str) -> dict[str, Any]:
    above = name == "accuracy"
    return {
        "textcoords": "offset points",
        "xytext": (0, 7 if above else -13),
        "ha": "center",
        "fontsize": 8,
    }


def _floor(values: Sequence[float]) -> float:
    """The lower end of the axis: a tenth below the smallest value, not under 0."""
    return max(0.0, round(min(values, default=0.0) - 0.1, 1))
