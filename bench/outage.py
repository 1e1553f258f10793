"""What outages and kills cost: answers that are lost or doubled, how long anybody waited, how soon all is well again.

There is no anchor: the bars are absolute. Under load, PostgreSQL is stopped, paused (SIGSTOP) and made read-only for
ten seconds each, and the service is killed with -9 at random moments 200 times, in half of its lives while the database
is away too. Every answer stands in a ledger that is held beside the rows afterwards. The same on SQLite, which can be
locked by another process and lose its table. Recovery is the time from the end of an outage until answers are committed
again and nothing is spooled. The longer forms, of all databases, are `python -m tests.torture outages` and `kills`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.result import Bar, Result
from tests.torture.kills import slaughter
from tests.torture.outages import bars_of, suffer
from tests.torture.victims import HARMS, victim

SEED = 4
KILLS = {"postgresql": 150, "sqlite": 50}
QUICK_KILLS = {"postgresql": 4, "sqlite": 4}
OUTAGE_SECONDS = 10.0
QUICK_OUTAGE_SECONDS = 3.0


def run(*, quick: bool = False) -> Result:
    """Outages and then kills, on each database. Cannot run without PostgreSQL."""
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    seconds = QUICK_OUTAGE_SECONDS if quick else OUTAGE_SECONDS
    for kind, kills in (QUICK_KILLS if quick else KILLS).items():
        with tempfile.TemporaryDirectory(prefix="intentloop-bench-") as folder, victim(kind, Path(folder)) as place:
            found = suffer(place, Path(folder), list(HARMS[kind]), kind=kind, seconds=seconds, seed=SEED)
        figures |= found
        bars |= bars_of(kind, found)
        with tempfile.TemporaryDirectory(prefix="intentloop-bench-") as folder, victim(kind, Path(folder)) as place:
            killed = slaughter(place, Path(folder), kind=kind, kills=kills, seed=SEED)
        for name, value in killed.items():
            figures[f"killed_{name}"] = value
        # Not "renamed": a request that was committed, heard nothing and comes again in an outage is answered anew.
        for name in ("lost", "doubled", "unforeseen"):
            bars[f"killed_{kind}_{name}"] = Bar(killed[f"{kind}_{name}"], at_most=0)
        bars[f"killed_{kind}_kills"] = Bar(killed[f"{kind}_kills"], at_least=kills)
    return Result(figures, bars)
