"""What clients see of flips: errors, answers of versions that were over, latency, memory; 16 clients, 2 workers.

Anchor of the latency: the same service, the same clients, no flips, in turn with the flips, five rounds. It is fair
because nothing else differs. Anchor of the memory: the same processes after a warm-up that asked them, and flipped
them through every version, once.

Every version answers with a label of its own, so each answer shows which artifact gave it. An answer is stale when its
version was active at no moment from one second before the request to its end, by the moments at which the flips were
committed. Each connection stays with one worker: by what it is told, the epochs of a worker never go back. At last an
artifact is replaced by another's bytes and flipped to: nothing may be answered with it, and nothing may fail.

There are more versions than a service keeps in memory, so most flips load. Data: made here. Two kinds of artifacts:
`ngram`, which loads and answers at once, and `head`, MiniLM in int8 with a head (extra `bench`). INTENTLOOP_BENCH_ONLY
takes these, `sqlite` and `postgresql`; INTENTLOOP_BENCH_FLIPS so many flips instead of 200 (10000: the long form, with
as many more requests); INTENTLOOP_BENCH_BREAK takes a guard away (`digest`, `epoch`), and the bars must not hold.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.db.schema import migrate
from app.db.session import UnitOfWork, connect
from app.db.tables import ModelVersion
from app.services import activations, domains
from bench.choice import chosen
from bench.flipping import services as running
from bench.flipping import versions
from bench.flipping.clients import Answer, Clients
from bench.flipping.verdict import Flip, History, Verdict, judge, percentile
from bench.load.installation import memory_mb
from bench.result import Bar, CannotRun, Result

CLIENTS: Final = 16
WORKERS: Final = 2
ROUNDS: Final = 5
FLIPS: Final = 200
LEAST_REQUESTS: Final = 50_000
# More than the scorers that a service keeps beside the active one.
VERSIONS: Final = 12
MOST_P99_RATIO: Final = 1.5
MOST_MEMORY_CHANGE: Final = 0.10
DATABASES: Final = ("sqlite", "postgresql")
MODELS: Final = ("ngram", "head")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it: in each round so many flips, under so many requests, after so many without a flip."""

    rounds: int = ROUNDS
    flips: int = FLIPS // ROUNDS
    requests: int = LEAST_REQUESTS // ROUNDS
    steady: int = LEAST_REQUESTS // ROUNDS // 2
    # Between two flips; None: so that the requests come in meanwhile.
    pause_seconds: float | None = None


@dataclass(slots=True)
class Seen:
    """What the rounds showed."""

    answers: list[Answer] = field(default_factory=list)
    flipping: int = 0
    failures: int = 0
    ratios: list[float] = field(default_factory=list)
    steady_p99: list[float] = field(default_factory=list)
    flipping_p99: list[float] = field(default_factory=list)
    memory: tuple[float, float] = (0.0, 0.0)
    damaged: Verdict | None = None


class World:
    """An installation with its versions, and the hand that flips them."""

    def __init__(self, folder: Path, url: str, write: versions.Write, seed: int = 0) -> None:
        self.store = folder / "artifacts"
        self._engine = connect(url)
        migrate(self._engine)
        self.work = UnitOfWork(self._engine)
        self.work(domains.ensure_default)
        self.signatures = versions.register(self.work, self.store, folder / "made", VERSIONS, write)
        self.history = History()
        self._rng = random.Random(seed)
        self.flip_to(next(iter(self.signatures)))

    def flip(self) -> None:
        """To a version by chance, but never to the one that is active."""
        serving = self.history.flips[-1].version
        self.flip_to(self._rng.choice([name for name in self.signatures if name != serving]))

    def flip_to(self, version: str) -> None:
        """As the service does it, and note when."""
        began = time.time()
        activation = self.work(activations.activate, version, by="bench", reason="bench")
        self.history.flips.append(Flip(activation.epoch, version, began, time.time()))

    def digest_of(self, version: str) -> str:
        """The artifact of a version."""

        def read(session: Session) -> str:
            found = session.scalars(select(ModelVersion.artifact_digest).where(ModelVersion.version == version))
            return found.one()

        return self.work.read(read)

    def status_of(self, version: str) -> str:
        """What became of a version."""
        return self.work.read(
            lambda session: session.scalars(select(ModelVersion.status).where(ModelVersion.version == version)).one()
        )

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


def run(*, quick: bool) -> Result:
    """Each kind of artifact on each database."""
    flips = int(os.environ.get("INTENTLOOP_BENCH_FLIPS", FLIPS))
    size = Size(2, 10, 1_500, 1_000) if quick else sized(flips)
    broken = os.environ.get("INTENTLOOP_BENCH_BREAK") or None
    if broken is not None and broken not in running.BROKEN:
        raise CannotRun(f"INTENTLOOP_BENCH_BREAK is one of {', '.join(running.BROKEN)}")
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    models, kinds = chosen(MODELS, DATABASES)
    # All of them before minutes are spent on the first: one may not be installed.
    writes = {model: versions.head_on_minilm() if model == "head" else versions.write_ngram for model in models}
    for model, write in writes.items():
        for kind in kinds:
            with tempfile.TemporaryDirectory(prefix="intentloop-bench-") as name, database(kind, Path(name)) as url:
                seen, verdict = measure(Path(name), url, size, write=write, broken=broken)
            report(f"{model}_{kind}", size, seen, verdict, figures, bars)
    return Result(figures, bars)


def sized(flips: int) -> Size:
    """So many flips over as many requests for each as in the short form."""
    share = flips / FLIPS
    return Size(
        ROUNDS, round(flips / ROUNDS), round(LEAST_REQUESTS / ROUNDS * share), round(LEAST_REQUESTS / ROUNDS / 2)
    )


def measure(
    folder: Path,
    url: str,
    size: Size,
    *,
    write: versions.Write = versions.write_ngram,
    broken: str | None = None,
    seed: int = 0,
    with_damage: bool = True,
) -> tuple[Seen, Verdict]:
    """All rounds, and what is to be said of all answers."""
    world, seen = World(folder, url, write, seed), Seen()
    try:
        with running.services(folder, url, workers=WORKERS, broken=broken) as (ports, leaders):
            _warm_up(world, ports, seen, size)
            before = _memory_mb(leaders)
            for _ in range(size.rounds):
                _round(world, ports, seen, size)
            seen.memory = (before, _memory_mb(leaders))
            if with_damage:
                seen.damaged = _damaged(world, ports)
        return seen, judge(seen.answers, world.history, world.signatures, failures=seen.failures)
    finally:
        world.close()


def _memory_mb(leaders: list[int]) -> float:
    return sum(sum(memory_mb(leader)) for leader in leaders)


def _warm_up(world: World, ports: list[int], seen: Seen, size: Size) -> None:
    with Clients(ports, CLIENTS) as clients:
        for version in [*world.signatures][1:]:
            world.flip_to(version)
            time.sleep(0.15)
        _wait_for(clients, size.steady)
    seen.answers += clients.answers
    seen.failures += len(clients.failures)


def _round(world: World, ports: list[int], seen: Seen, size: Size) -> None:
    with Clients(ports, CLIENTS) as steady:
        _wait_for(steady, size.steady)
    pause = size.pause_seconds
    if pause is None:
        per_second = len(steady.answers) / (steady.answers[-1].end - steady.answers[0].start)
        pause = size.requests / per_second / size.flips
    with Clients(ports, CLIENTS) as flipping:
        for _ in range(size.flips):
            world.flip()
            time.sleep(pause)
        _wait_for(flipping, size.requests)
    seen.steady_p99.append(percentile(steady.answers, 0.99))
    seen.flipping_p99.append(percentile(flipping.answers, 0.99))
    seen.ratios.append(seen.flipping_p99[-1] / seen.steady_p99[-1])
    seen.flipping += len(flipping.answers)
    seen.answers += [*steady.answers, *flipping.answers]
    seen.failures += len(steady.failures) + len(flipping.failures)


def _wait_for(clients: Clients, count: int) -> None:
    while len(clients.answers) < count:
        time.sleep(0.02)


def _damaged(world: World, ports: list[int]) -> Verdict:
    """Flip to a version whose artifact is another's, then back: its name must never be answered with."""
    serving = world.history.flips[-1].version
    bad, other = [name for name in world.signatures if name != serving][:2]
    # One that no service has in memory: what is loaded needs no file.
    for version in [*world.signatures][2 : 2 + 5]:
        world.flip_to(version)
        time.sleep(0.5)
    good = world.history.flips[-1].version
    versions.swap_bytes(world.store, world.digest_of(bad), world.digest_of(other))
    with Clients(ports, CLIENTS) as clients:
        world.flip_to(bad)
        deadline = time.monotonic() + 3
        while world.status_of(bad) != "failed" and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        world.flip_to(good)
        time.sleep(0.5)
    told = [answer for answer in clients.answers if answer.version is not None]
    named = sum(answer.version == bad or world.signatures[answer.version or ""] != answer.label for answer in told)
    errors = sum(answer.status != 200 for answer in clients.answers) + len(clients.failures)
    return Verdict(len(clients.answers), errors, named, 0, 0)


def report(
    name: str, size: Size, seen: Seen, verdict: Verdict, figures: dict[str, float], bars: dict[str, Bar]
) -> None:
    """The bars as the issue states them."""
    damaged = seen.damaged or Verdict(0, 1, 1, 0, 0)
    before, after = seen.memory
    ratio = statistics.median(seen.ratios)
    figures |= {
        f"{name}_flips": float(size.rounds * size.flips),
        f"{name}_requests_while_flipping": float(seen.flipping),
        f"{name}_requests": float(verdict.answers),
        f"{name}_steady_p99_ms": round(statistics.median(seen.steady_p99), 2),
        f"{name}_flipping_p99_ms": round(statistics.median(seen.flipping_p99), 2),
        f"{name}_p99_ratio_least": round(min(seen.ratios), 3),
        f"{name}_p99_ratio_most": round(max(seen.ratios), 3),
        f"{name}_memory_before_mb": round(before, 1),
        f"{name}_memory_after_mb": round(after, 1),
    }
    bars |= {
        f"{name}_errors": Bar(verdict.errors + damaged.errors, at_most=0),
        f"{name}_stale_answers": Bar(verdict.stale, at_most=0),
        f"{name}_wrong_signatures": Bar(verdict.wrong_signatures, at_most=0),
        f"{name}_epochs_that_went_back": Bar(verdict.went_back, at_most=0),
        f"{name}_answers_of_a_damaged_version": Bar(damaged.wrong_signatures, at_most=0),
        f"{name}_p99_ratio": Bar(round(ratio, 3), at_most=MOST_P99_RATIO),
        f"{name}_memory_change": Bar(round(abs(after / before - 1), 3), at_most=MOST_MEMORY_CHANGE),
    }
    shown: Mapping[str, float] = {key: value for key, value in figures.items() if key.startswith(name)}
    print(f"{name}: " + ", ".join(f"{key.removeprefix(f'{name}_')} {value:g}" for key, value in shown.items()))
    judged = {key.removeprefix(f"{name}_"): bar for key, bar in bars.items() if key.startswith(f"{name}_")}
    print("  " + ", ".join(f"{key} {bar.value:g}" for key, bar in judged.items()), flush=True)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a fresh database of this kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'intentloop.db'}"
        return
    try:
        from tests import servers
    except ImportError as error:
        raise CannotRun("PostgreSQL is started by tests/servers.py, which is not here") from error
    with ExitStack() as stack:
        url = stack.enter_context(servers.postgresql())
        engine = connect(url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CREATE DATABASE flips"))
        engine.dispose()
        yield f"{url.rpartition('/')[0]}/flips"
