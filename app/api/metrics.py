"""Metrics of one application, as Prometheus reads them: names with `intentloop_`, base units, no text and no id."""

import logging
import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from app import __version__
from app.api.access import needs
from app.api.generative_figures import GenerativeFigures
from app.api.problems import responses
from app.api.worker_figures import WorkerFigures
from app.services import installation
from app.services.installation import Installation

if TYPE_CHECKING:
    from app.api.dependencies import Services

logger = logging.getLogger(__name__)

PREFIX: Final = "intentloop"
# Seconds. An answer of `/classify` takes milliseconds, one that waits for the database up to ten seconds.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MOST_DOMAINS: Final = 50
OTHER: Final = "other"
FRESH_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 2.0
SPOOL_COUNTERS: Final = {
    "log_degradations": "Times that answers could not be committed",
    "spool_spooled": "Questions that were spooled",
    "spool_replayed": "Spooled questions that became rows",
    "spool_duplicates": "Spooled questions that were rows already",
    "spool_quarantined": "Spooled questions that no row could be made of",
    "spool_forgotten": "Spooled questions that were to be forgotten while they waited",
    "spool_torn": "Torn last frames of spools, of which nobody was told that they are logged",
}

# A second series for each, with the time when it began: Prometheus does not need it.
disable_created_metrics()  # type: ignore[no-untyped-call]

router = APIRouter(tags=["operations"])


class Metrics:
    """What one application counts of itself; it tells, when it is read, what its parts and the database say."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.services: Services | None = None
        given: dict[str, Any] = {"namespace": PREFIX, "registry": self.registry}
        self.requests = Requests()
        self.registry.register(self.requests)
        self._questions = Counter(
            "questions", "Questions answered and logged here, by the deciding tier", ["domain", "method"], **given
        )
        self._writes = Histogram(
            "log_write_duration_seconds", "Time to commit one list of questions", buckets=BUCKETS, **given
        )
        self._folds = Histogram(
            "fold_duration_seconds", "Time to fold one slice of questions into texts", buckets=BUCKETS, **given
        )
        self.generative = GenerativeFigures(self.registry)
        Info("build", "What runs here", **given).info({"version": __version__})
        ProcessCollector(namespace=PREFIX, registry=self.registry)
        self.registry.register(Parts(self))
        self.registry.register(LogFigures(self))
        self.database = DatabaseFigures(self._look)
        self._domains: set[str] = set()
        self.workers: WorkerFigures | None = None

    def share(self, folder: Path) -> None:
        """Tell of all workers of this service, which leave their figures in this folder."""
        self.workers = WorkerFigures(folder, [self.registry])

    def collect(self) -> Iterable[Metric]:
        """All figures: of this process, or of all workers; and those of the database once."""
        yield from self.registry.collect() if self.workers is None else self.workers.families()
        yield from self.database.collect()

    def logged(self, asked: Iterable[tuple[str, str]]) -> None:
        """Count questions that were answered and committed, each by its domain and its method."""
        for (domain, method), count in Tally(asked).items():
            self._questions.labels(self._known(domain), method).inc(count)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Time one list of the log."""
        with _timed(self._writes):
            yield

    @contextmanager
    def folding(self) -> Iterator[None]:
        """Time one slice of folding."""
        with _timed(self._folds):
            yield

    def _known(self, domain: str) -> str:
        """The name of a domain, or `other` beyond the first so many: each is a series for ever."""
        if domain not in self._domains:
            if len(self._domains) >= MOST_DOMAINS:
                return OTHER
            self._domains.add(domain)
        return domain

    def _look(self) -> Installation | None:
        return None if self.services is None else self.services.work.read(installation.look, most_domains=MOST_DOMAINS)


@contextmanager
def _timed(histogram: Histogram) -> Iterator[None]:
    started = perf_counter()
    try:
        yield
    finally:
        histogram.observe(perf_counter() - started)


class Requests(Collector):
    """Requests by method, route and status, and their durations by route.

    Each request passes here, on the thread of the event loop alone: without the client's locks, and without a look-up
    for each label, counting one takes a microsecond.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[str, Durations] = {}

    def describe(self) -> Iterable[Metric]:
        """Nothing: no request was answered yet."""
        return []

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request that was answered."""
        key = (method, route, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = Durations([0] * (len(BUCKETS) + 1))
        durations.counts[bisect_left(BUCKETS, seconds)] += 1
        durations.seconds += seconds

    def collect(self) -> Iterable[Metric]:
        """What was counted until now."""
        counts = CounterMetricFamily(
            f"{PREFIX}_http_requests", "Answered requests", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._counts.copy().items():
            counts.add_metric([method, route, str(status)], count)
        durations = HistogramMetricFamily(
            f"{PREFIX}_http_request_duration_seconds", "Time to answer a request", labels=["route"]
        )
        for route, found in self._durations.copy().items():
            so_far = accumulate(found.counts.copy())
            bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
            durations.add_metric([route], list(zip(bounds, so_far, strict=True)), found.seconds)
        return [counts, durations]


@dataclass(slots=True)
class Durations:
    """How many took up to each bound, and longer than the one before; and how long all of them took together."""

    counts: list[int]
    seconds: float = 0.0


class Parts(Collector):
    """What the parts of this process say at the moment: queues, what is served, what could not be loaded."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Nothing: there is nothing to read before the application runs."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The values of now."""
        given = self._metrics.services
        depth = _gauge("queue_depth", "Questions that wait", "queue")
        epochs = _gauge("serving_epoch", "The flip that this process serves", "domain")
        serving = _gauge("serving_info", "1 beside the version that this process serves", "domain", "version")
        ready = _gauge("generative_ready", "1 while the generative tier can be asked")
        errors = _gauge("serving_error", "1 while this process does not serve what it should", "domain")
        age = _gauge("watcher_age_seconds", "Since this process last saw what it should serve")
        if given is not None:
            depth.add_metric(["inference"], given.classifier.waiting)
            depth.add_metric(["log"], given.log.waiting)
            if given.generative is not None:
                depth.add_metric(["generative"], given.generative.recheck.waiting)
                ready.add_metric([], given.generative.standing()[0] == "ready")
            broken = given.watcher.errors
            for domain, loaded in sorted(given.runtime.loaded.items())[:MOST_DOMAINS]:
                epochs.add_metric([domain], loaded.release.state.epoch)
                serving.add_metric([domain, loaded.release.version or "none"], 1)
                errors.add_metric([domain], domain in broken)
            if given.watcher.seen_at is not None:
                age.add_metric([], monotonic() - given.watcher.seen_at)
        return [depth, epochs, serving, errors, age, ready]


class LogFigures(Collector):
    """Where the answers of this process go, and what became of those that were spooled."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Nothing: there is nothing to read before the application runs."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The values of now."""
        degraded = _gauge("log_degraded", "1 while answers are spooled or refused, not committed")
        rows = _gauge("spooled_questions", "Questions that wait in this process's spools")
        size = _gauge("spool_bytes", "Size of all spools of this machine")
        given = self._metrics.services
        counted: dict[str, int] = {}
        if given is not None:
            waiting, taken = given.log.spooled
            degraded.add_metric([], given.log.degraded_since is not None)
            rows.add_metric([], waiting)
            size.add_metric([], taken)
            counted = {**asdict(given.log.tally), "torn": given.log.torn}
        yield from (degraded, rows, size)
        for name, documentation in SPOOL_COUNTERS.items():
            yield CounterMetricFamily(f"{PREFIX}_{name}", documentation, counted.get(name.split("_")[-1], 0))


class DatabaseFigures(Collector):
    """What the database says, read at most every few seconds and on a thread of its own.

    When it is away `intentloop_database_up` is 0 and the others are left out: a figure that is old would be read as one
    of now.
    """

    def __init__(self, look: Callable[[], Installation | None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._found: Installation | None = None
        self._found_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        """Nothing: there is nothing to read before the application runs."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The values of the last few seconds."""
        found = self._fresh()
        yield GaugeMetricFamily(f"{PREFIX}_database_up", "Whether the database answers", float(found is not None))
        yield from families(found)

    def _fresh(self) -> Installation | None:
        with self._lock:
            if self._is_fresh():
                return self._found
            # One at a time: a database that hangs must not take a thread for every scrape.
            if self._reader is None or not self._reader.is_alive():
                self._reader = threading.Thread(target=self._read, name="figures", daemon=True)
                self._reader.start()
            reader = self._reader
        reader.join(PATIENCE_SECONDS)
        return self._found if self._is_fresh() else None

    def _is_fresh(self) -> bool:
        return monotonic() - self._found_at < FRESH_SECONDS

    def _read(self) -> None:
        try:
            found = self._look()
        except Exception as error:  # The edge of the thread: the metrics say that the database is away.
            logger.info("the figures of the database cannot be read: %s", type(error).__name__)
            return
        if found is not None:
            self._found, self._found_at = found, monotonic()


def families(found: Installation | None) -> Iterator[Metric]:
    """The figures of the database as metrics; without any, their names alone."""
    lag = _gauge("fold_lag_seconds", "Age of the oldest question that is not folded into its text")
    replicas = _gauge("replicas", "Processes that reported in the last 15 seconds", "role")
    wanted = _gauge("wanted_epoch", "The flip that every service should serve", "domain")
    arrived = _gauge("replicas_arrived", "Services that serve the flip that they should", "domain")
    waiting = _gauge("texts_waiting", "Texts that wait for a person", "domain")
    pending = _gauge("labels_pending", "Labels since the last batch", "domain")
    judged = _gauge("live_judged", "Texts of the random slice that a person labelled", "domain")
    agreed = _gauge("live_agreed", "Those of them that had been answered with that label", "domain")
    batches = _gauge("batches", "Batches by status", "domain", "status")
    jobs = CounterMetricFamily(f"{PREFIX}_job_runs", "Ended runs of the clock's jobs", labels=["job", "outcome"])
    if found is not None:
        lag.add_metric([], found.fold_lag_seconds)
        for role, count in found.replicas.items():
            replicas.add_metric([role], count)
        for domain in found.domains:
            wanted.add_metric([domain.name], domain.epoch)
            arrived.add_metric([domain.name], domain.replicas_arrived)
            waiting.add_metric([domain.name], domain.texts_waiting)
            pending.add_metric([domain.name], domain.labels_pending)
            judged.add_metric([domain.name], domain.judged)
            agreed.add_metric([domain.name], domain.agreed)
            for status, count in domain.batches.items():
                batches.add_metric([domain.name, status], count)
        for (job, outcome), count in found.job_runs.items():
            jobs.add_metric([job, outcome], count)
    yield from (lag, replicas, wanted, arrived, waiting, pending, judged, agreed, batches, jobs)


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", documentation, labels=labels)


@router.get(
    "/metrics",
    response_class=Response,
    responses=responses()
    | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text"}},
    dependencies=[needs("admin", everywhere=True)],
)
def metrics(request: Request) -> Response:
    """Figures of this service and of the installation, for Prometheus."""
    found: Metrics = request.app.state.metrics
    written = generate_latest(found)
    return Response(written, media_type=CONTENT_TYPE_LATEST)
