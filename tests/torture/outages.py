"""The database is stopped, paused, locked and read-only under load: nothing answered is lost, nobody waits long."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.db.session import connect
from bench.result import Bar, Result
from tests.torture.ledger import Ledger, check
from tests.torture.load import load
from tests.torture.service import service
from tests.torture.victims import HARMS, Victim, available, victim

CLIENTS = 8
LONGEST_WAIT_SECONDS = 10.0
RECOVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Outage:
    """One outage: how long until answers were committed again, after it had ended."""

    how: str
    recovery_seconds: float


def run(*, quick: bool, seed: int) -> Result:
    """Every harm of every database, over and over in another order."""
    rounds, seconds = (1, 3.0) if quick else (20, 10.0)
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for kind in available():
        harms = [how for number in range(rounds) for how in _shuffled(HARMS[kind], f"{seed}/{kind}/{number}")]
        with tempfile.TemporaryDirectory(prefix="intentloop-torture-") as folder, victim(kind, Path(folder)) as place:
            figures |= suffer(place, Path(folder), harms, kind=kind, seconds=seconds, seed=seed)
        bars |= bars_of(kind, figures)
    return Result(figures, bars)


def _shuffled(harms: tuple[str, ...], seed: str) -> list[str]:
    order = list(harms)
    random.Random(seed).shuffle(order)
    return order


def suffer(
    place: Victim, folder: Path, harms: list[str], *, kind: str, seconds: float, seed: int, **settings: Any
) -> dict[str, float]:
    """A service under load while its database is harmed, `seconds` long each time; what came of it, as figures."""
    ledger = Ledger()
    outages: list[Outage] = []
    with service(folder, place.url, **settings) as served:
        served.start()
        with load(served.port, ledger, clients=CLIENTS, seed=seed):
            time.sleep(1.0)
            for how in harms:
                place.harm(how)
                time.sleep(seconds)
                place.heal()
                outages.append(Outage(how, served.wait_until_whole()))
                time.sleep(1.0)
        served.wait_until_whole()
        served.stop()
    engine = connect(place.url)
    verdict = check(engine, ledger)
    engine.dispose()
    figures: dict[str, float] = {f"{kind}_{name}": value for name, value in verdict.as_figures().items()}
    figures[f"{kind}_answers"] = len(ledger.answers)
    figures[f"{kind}_spooled"] = sum(answer.logged == "spooled" for answer in ledger.answers)
    figures[f"{kind}_unforeseen"] = ledger.unforeseen
    figures[f"{kind}_refused"] = ledger.statuses[503]
    figures[f"{kind}_slowest_seconds"] = round(ledger.slowest_seconds, 2)
    for outage in outages:
        name = f"{kind}_recovery_seconds_after_{outage.how}"
        figures[name] = max(figures.get(name, 0.0), round(outage.recovery_seconds, 2))
    return figures


def bars_of(kind: str, figures: Mapping[str, float]) -> dict[str, Bar]:
    """What must hold for this database."""
    bars = {
        name: Bar(figures[name], at_most=0)
        for name in (f"{kind}_lost", f"{kind}_doubled", f"{kind}_renamed", f"{kind}_unforeseen")
    }
    bars[f"{kind}_slowest_seconds"] = Bar(figures[f"{kind}_slowest_seconds"], at_most=LONGEST_WAIT_SECONDS)
    # Proof that there were outages at all.
    bars[f"{kind}_spooled"] = Bar(figures[f"{kind}_spooled"], at_least=1)
    for name, value in figures.items():
        if name.startswith(f"{kind}_recovery"):
            bars[name] = Bar(value, at_most=RECOVERY_SECONDS)
    return bars
