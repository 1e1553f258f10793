"""The service is killed with -9 at random moments, while it spools and replays too: every 2xx is one row."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from app.db.session import connect
from bench.result import Bar, Result
from tests.torture.ledger import Ledger, check
from tests.torture.load import load
from tests.torture.service import Service, service
from tests.torture.victims import HARMS, Victim, available, victim

CLIENTS = 6
KILLS = 1000
QUICK_KILLS = 20
LONGEST_LIFE_SECONDS = 1.5


def run(*, quick: bool, seed: int) -> Result:
    """All kills, shared between the databases of this machine."""
    kinds = available()
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for kind in kinds:
        kills = -(-(QUICK_KILLS if quick else KILLS) // len(kinds))
        with tempfile.TemporaryDirectory(prefix="intentloop-torture-") as folder, victim(kind, Path(folder)) as place:
            figures |= slaughter(place, Path(folder), kind=kind, kills=kills, seed=seed)
        # Not "renamed": a request that was committed, heard nothing and comes again in an outage is answered anew.
        for name in ("lost", "doubled", "unforeseen"):
            bars[f"{kind}_{name}"] = Bar(figures[f"{kind}_{name}"], at_most=0)
        bars[f"{kind}_answers"] = Bar(figures[f"{kind}_answers"], at_least=kills)
    return Result(figures, bars)


def slaughter(place: Victim, folder: Path, *, kind: str, kills: int, seed: int, **settings: Any) -> dict[str, float]:
    """Kill and start again, so often; in half of the lives the database goes away for a while."""
    rng = random.Random(f"{seed}/{kind}")
    ledger = Ledger()
    killed = 0
    with service(folder, place.url, **settings) as served:
        served.start()
        with load(served.port, ledger, clients=CLIENTS, seed=seed):
            while killed < kills:
                killed += _live(served, place, HARMS[kind], rng)
                served.kill()
                killed += 1
                served.start()
        served.wait_until_whole()
        served.stop()
    engine = connect(place.url)
    verdict = check(engine, ledger)
    engine.dispose()
    figures: dict[str, float] = {f"{kind}_{name}": value for name, value in verdict.as_figures().items()}
    figures[f"{kind}_kills"] = killed
    figures[f"{kind}_answers"] = len(ledger.answers)
    figures[f"{kind}_spooled"] = sum(answer.logged == "spooled" for answer in ledger.answers)
    figures[f"{kind}_unforeseen"] = ledger.unforeseen
    # By name, so that a miss can be looked for; -1 is a request that nobody answered in time.
    figures |= {f"{kind}_status_{status}": count for status, count in sorted(ledger.statuses.items())}
    return figures


def _live(served: Service, place: Victim, harms: tuple[str, ...], rng: random.Random) -> int:
    """One life; how often it was killed in it.

    The outage ends in it, so that the next start finds a database; at times before all is replayed.
    """
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.0, LONGEST_LIFE_SECONDS))
        return 0
    place.harm(rng.choice(harms))
    time.sleep(rng.uniform(0.2, LONGEST_LIFE_SECONDS))
    if rng.random() < 0.5:
        # In the middle of the outage.
        served.kill()
        place.heal()
        served.start()
        return 1
    place.heal()
    time.sleep(rng.uniform(0.0, 0.5))
    return 0
