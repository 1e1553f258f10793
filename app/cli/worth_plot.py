"""Draw what labels are worth: versions with their intervals, the fitted curve with its band, and the target."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.intent.learning_curve import LearningCurve, Point
from app.simulation.plot import check_plot


def draw_worth(
    points: Sequence[Point], curve: LearningCurve | None, target: float | None, path: Path, *, title: str
) -> None:
    """Write macro-F1 over labels, as far to the right as the target needs, and at most to four times today's labels."""
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "intentloop", "svg.fonttype": "path"}):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        labels, values = [point.labels for point in points], [point.value for point in points]
        below = [point.value - _low(point) for point in points]
        above = [_high(point) - point.value for point in points]
        axes.errorbar(labels, values, [below, above], fmt="o", markersize=4, capsize=3, label="versions on gold")
        if curve is not None:
            along = np.linspace(min(labels), _reach(curve, target), 200)
            name = f"fitted, towards {curve.asymptote.value:.3f}"
            axes.plot(along, [curve.at(count).value for count in along], label=name)
            ahead = np.linspace(curve.labels, _reach(curve, target), 100)
            found = [curve.at(count) for count in ahead]
            axes.fill_between(ahead, [one.low for one in found], [one.high for one in found], alpha=0.2, label="95 %")
        if target is not None:
            axes.axhline(target, linestyle="--", linewidth=1.0, color="0.4", label=f"target {target:.2f}")
        axes.set(title=title, xlabel="labels trained on", ylabel="macro-F1 on gold")
        axes.set_xlim(left=0)
        axes.set_ylim(top=1.0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _low(point: Point) -> float:
    return point.value if point.low is None else min(point.low, point.value)


def _high(point: Point) -> float:
    return point.value if point.high is None else max(point.high, point.value)


def _reach(curve: LearningCurve, target: float | None) -> float:
    more = curve.needed(target).more if target is not None else None
    wanted = 2.0 * curve.labels if more is None else 1.1 * (curve.labels + more)
    return float(np.clip(wanted, 1.5 * curve.labels, 4.0 * curve.labels))
