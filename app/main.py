"""Wire the service: the only place where engine, runtime, log and routes meet."""

import asyncio
import logging
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline

from app import __version__
from app.answer_log import Folding, bulk_intake, log_database, open_spool
from app.api import (
    access,
    agreement,
    annotations,
    batches,
    classify,
    flags,
    hot_path,
    keywords,
    metrics,
    operations,
    problems,
    questions,
    queue,
    refine,
    scenarios,
    taxonomy_changes,
    undoing,
    versions,
)
from app.api import domains as domain_routes
from app.api.bodies import BodyLimit
from app.api.dependencies import Services
from app.api.keyring import KeyRing
from app.api.loopback import OwnMachineOnly
from app.api.metrics import Metrics
from app.api.observing import Observed
from app.artifacts.opening import open_store
from app.db.guard import Guard
from app.db.notices import FLIPS, Listener
from app.db.session import UnitOfWork, connect
from app.db.sqlite_library import warn_if_broken
from app.db.turns import turn_of
from app.errors import SetupError
from app.extraction import Extraction
from app.generative import open_generative
from app.intent.ngram_features import load_dictionary
from app.intent.releases import DomainState, Release
from app.remembered import remembered_releases
from app.remembered_keys import RememberedKeys
from app.reporting import Reporter
from app.services import counters, domains, intake, keys
from app.services.batches import OpeningRule
from app.serving.classifier import Classifier, Secret
from app.serving.follower import Follower
from app.serving.log import LogWriter, Spooled
from app.serving.runtime import Runtime
from app.serving.watcher import Watcher
from app.settings import Settings
from app.trail import Trail

logger = logging.getLogger(__name__)

ROUTED = (
    classify,
    refine,
    queue,
    agreement,
    flags,
    questions,
    annotations,
    undoing,
    domain_routes,
    taxonomy_changes,
    batches,
    keywords,
    scenarios,
    versions,
    operations,
    metrics,
)
LOG_SIZE = 500
# Folding one question costs nearly as much as folding a hundred, and a text must be in the queue within a second.
GATHER_SECONDS = 0.2
FOLD_REST = 0.5
# The framework's own would record what callers sent wrong, word by word, and ask for each request whether it may.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
DESCRIPTION = "Active learning for text classification: log, label, train, prove, flip."


def create_app(settings: Settings, *, figures: Path | None = None, generative: Path | None = None) -> FastAPI:
    """The service, ready to be started; nothing is opened before it starts.

    `figures`: the folder in which the workers of one service leave theirs; without it this process is all of it.
    `generative`: the folder of the generative process, where another one keeps it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = build(settings, app.state.metrics, generative=generative)
        app.state.services = app.state.metrics.services = services
        # Read ahead, beside the first requests: a service's first flip to a Chinese version must not wait for it.
        threading.Thread(target=load_dictionary, name="dictionary", daemon=True).start()
        services.guard.start()
        serve_what_is_wanted(settings, services)
        services.folder.start()
        if services.generative is not None:
            services.generative.start()
        if not services.keys.guarded:
            logger.warning(
                "there is no key: every program on this machine can read and change everything; "
                "`intentloop keys create --role admin` closes the door"
            )
        services.porter.start()
        if app.state.metrics.workers is not None:
            app.state.metrics.workers.start()
        try:
            yield
        finally:
            await _stop(services, app.state.metrics)

    # The pages of the API carry their own scripts: a closed network reaches no CDN.
    app = FastAPIOffline(
        redoc_url=None,
        title="intentloop",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # behind a proxy a redirect would name the wrong host
        telemetry=NO_TELEMETRY,
    )
    app.state.max_json_depth = settings.max_json_depth
    app.state.metrics = Metrics()
    if figures is not None:
        app.state.metrics.share(figures)
    routers = [module.router for module in ROUTED]
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    problems.install(app, routes)
    for router in routers:
        app.include_router(router)
    _add_layers(app, settings)
    _complete_document(app, routes)
    return app


async def _stop(services: Services, metrics: Metrics) -> None:
    """End in the order of a question's way, and beside the loop: what is in flight needs it to be answered."""
    services.draining = True
    await asyncio.to_thread(services.extract.close)
    await services.classifier.close()
    if services.generative is not None:
        await asyncio.to_thread(services.generative.stop)
    await asyncio.to_thread(services.log.close)
    await asyncio.to_thread(stop_following, services)
    await asyncio.to_thread(services.folder.stop)
    await asyncio.to_thread(services.porter.stop)
    await asyncio.to_thread(services.guard.stop)
    if metrics.workers is not None:
        await asyncio.to_thread(metrics.workers.stop)
    services.engine.dispose()


def _add_layers(app: FastAPI, settings: Settings) -> None:
    """What every request passes on its way to its route."""
    metrics, access_level = app.state.metrics, logging.getLevelName(settings.access_log.upper())
    own_machine = {"allowed_hosts": settings.allowed_hosts, "cors_origins": settings.cors_origins}
    # The last one added is the outermost: refusals, too, reach a browser only with the headers of CORS.
    app.add_middleware(OwnMachineOnly, **own_machine)
    app.add_middleware(problems.LastResort)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    app.add_middleware(Observed, metrics=metrics, access_level=access_level)
    hot_path.install(app, metrics=metrics, access_level=access_level, own_machine=OwnMachineOnly(app, **own_machine))


def build(settings: Settings, metrics: Metrics, *, generative: Path | None = None) -> Services:
    """Open the database and put the parts of one process together."""
    engine = connect(settings.url, serving=True)
    warn_if_broken(engine.dialect.name)
    counters.keep_days_in(engine, settings.zone)
    guard = Guard(engine, connect(settings.url, asking=True))
    work = UnitOfWork(engine, guard=guard)
    secret = Secret(installation_secret(settings))
    runtime = open_runtime(settings)
    turn = turn_of(engine)
    folder = _folder(work, turn, metrics)
    log = LogWriter(
        log_database(work, turn, folder, runtime, metrics),
        spool=open_spool(settings),
        size=LOG_SIZE,
        capacity=settings.queue_size,
        patience_seconds=settings.log_patience_seconds,
    )
    ring, known_keys = _door(settings, work)
    trail = Trail(work, secret.key, settings.audit_head)

    def keep_door() -> bool:
        ring.refresh()
        with turn:
            ring.write_uses()
            trail.seal()
        return False

    watcher, listener, reporter = _following(settings, work, runtime)
    tier = open_generative(settings, runtime, folder=generative, observe=metrics.generative.observe)
    classifier: Classifier[intake.Logged | Spooled] = Classifier(
        runtime,
        log,
        secret,
        capacity=settings.queue_size,
        refresh=watcher.look,
        recheck=tier.recheck if tier is not None else None,
    )
    return Services(
        engine=engine,
        guard=guard,
        work=work,
        secret=secret,
        runtime=runtime,
        watcher=watcher,
        listener=listener,
        reporter=reporter,
        folder=folder,
        keys=ring,
        known_keys=known_keys,
        porter=Follower(keep_door, every_seconds=1.0, name="porter"),
        log=log,
        take_in=bulk_intake(turn),
        classifier=classifier,
        rule=opening_rule(settings),
        lease_seconds=settings.lease_seconds,
        proposal_size=settings.proposal_size,
        extract=Extraction(settings),
        generative=tier,
    )


def _folder(work: UnitOfWork, turn: AbstractContextManager[object], metrics: Metrics) -> Follower:
    """What folds questions into texts after their commit."""
    fold = Folding(work, turn)

    def follow() -> bool:
        with metrics.folding():
            return fold()

    return Follower(follow, every_seconds=1.0, gather_seconds=GATHER_SECONDS, rest=FOLD_REST, name="folder")


def _door(settings: Settings, work: UnitOfWork) -> tuple[KeyRing, RememberedKeys]:
    """Who is let in, and who was last."""
    known = RememberedKeys(lambda: work.read(keys.table), settings.last_known)
    return KeyRing(known, lambda used: work(keys.note_use, used), rate_per_minute=settings.rate_per_minute), known


def open_runtime(settings: Settings) -> Runtime:
    """The models of this process; their artifacts come from the store that the settings name."""
    found: list[Runtime] = []
    store = open_store(settings, kept=lambda: found[0].kept_digests)
    runtime = Runtime(store.fetch, threads=settings.threads_each)
    found.append(runtime)
    return runtime


def _following(settings: Settings, work: UnitOfWork, runtime: Runtime) -> tuple[Watcher, Listener, Reporter]:
    """What follows the flips, by asking and where the database announces them by listening, and tells of it."""
    reporter = Reporter(work, runtime, f"{socket.gethostname()}:{os.getpid()}", settings.last_known)

    def states() -> list[DomainState]:
        return work.read(domains.states)

    def release(domain_id: int) -> Release:
        return work.read(domains.release, domain_id)

    watcher = Watcher(
        runtime,
        states=states,
        release=release,
        report=reporter,
        poll_seconds=settings.poll_seconds,
        is_calm=lambda: listener.is_listening,
    )
    listener = Listener(work.engine, FLIPS, watcher.nudge)
    return watcher, listener, reporter


def serve_what_is_wanted(settings: Settings, services: Services) -> None:
    """Load what the domains are to serve; without the database what this machine served last, if that is allowed."""
    last = settings.last_known
    services.watcher.start(remembered=(lambda: remembered_releases(last)) if settings.start_degraded else None)
    services.reporter.start()
    services.listener.start()
    try:
        services.keys.refresh()
    except Exception as error:  # Who knows no keys lets nobody in; the porter asks again each second.
        table = services.known_keys.last() if settings.start_degraded else None
        if table is None and services.watcher.seen_at is not None:
            raise
        logger.warning("the keys cannot be read (%s): those of the last start count", type(error).__name__)
        if table is not None:
            services.keys.take(table)


def stop_following(services: Services) -> None:
    """End what follows the flips, and say good-bye."""
    services.listener.stop()
    services.watcher.stop()
    services.reporter.stop()


def opening_rule(settings: Settings) -> OpeningRule:
    """When a batch opens, by the settings."""
    return OpeningRule(
        labels=settings.batch_labels,
        share=settings.batch_share,
        small_labels=settings.batch_small_labels,
        small_days=settings.batch_small_days,
        retry_delays_seconds=settings.retry_delays_seconds,
        extract_keywords=settings.extract_keywords,
    )


def installation_secret(settings: Settings) -> bytes:
    """The installation's key: from the settings, or from a file in the data folder that is made once."""
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value().encode()
    path = settings.data_dir / "secret.key"
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        made = path.with_name(f".secret.{os.getpid()}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        # Linked when it is whole: of two processes that start at once one makes the key, and both read that one.
        with suppress(FileExistsError):
            os.link(made, path)
        made.unlink()
    key = path.read_text().strip()
    if len(key) < 32:
        raise SetupError(f"{path} holds no key: delete it to have one made, or set INTENTLOOP_SECRET_KEY")
    return key.encode()


def _complete_document(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Put into the OpenAPI document what its routes refer to: the problem document, and the keys."""
    original = app.openapi

    def openapi() -> dict[str, object]:
        document = original()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("Problem", problems.Problem.model_json_schema())
        # The document is made once and kept.
        if "securitySchemes" not in document["components"]:
            access.describe(document, routes)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
