"""What a benchmark found: figures, and the bars that must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class CannotRun(Exception):
    """Something that the benchmark needs is not here. The message says what."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that was promised: `at_least` or `at_most`, never both."""

    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the figure is on the right side."""
        return not (
            (self.at_least is not None and self.value < self.at_least)
            or (self.at_most is not None and self.value > self.at_most)
        )

    def as_json(self) -> dict[str, Any]:
        """`bar` is the promised number, `side` says which side of it is right."""
        side = "at_least" if self.at_least is not None else "at_most"
        return {"value": self.value, "bar": getattr(self, side), "side": side, "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Result:
    """All figures of one run, those with a bar, and the names of promised ones that were not measured."""

    figures: Mapping[str, float]
    bars: Mapping[str, Bar] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every bar was measured and holds."""
        return not self.missing and all(bar.holds for bar in self.bars.values())

    def as_json(self) -> dict[str, Any]:
        """The last line of a benchmark's output, without its name."""
        bars = {name: bar.as_json() for name, bar in self.bars.items()}
        missing = {"missing": list(self.missing)} if self.missing else {}
        return {"figures": dict(self.figures), "bars": bars, **missing, "holds": self.holds}
