"""Wire the service: the only place where engine, runtime, log and routes meet."""

import asyncio
import logging
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from app import __version__
from app.api import (
    access,
    annotations,
    batches,
    classify,
    keywords,
    metrics,
    operations,
    problems,
    questions,
    queue,
    versions,
)
from app.api import domains as domain_routes
from app.api.bodies import BodyLimit
from app.api.dependencies import Services
from app.api.keyring import KeyRing
from app.api.loopback import OwnMachineOnly
from app.api.metrics import OTHER, Metrics
from app.api.observing import Observed
from app.db.session import UnitOfWork, connect
from app.errors import SetupError
from app.extraction import Extraction
from app.intent.ngram_features import load_dictionary
from app.intent.questions import AskedQuestion
from app.intent.releases import DomainState, Release
from app.services import counters, domains, intake, keys, runs, texts
from app.services import versions as version_service
from app.services.batches import OpeningRule
from app.serving.batching import GreedyBatcher
from app.serving.classifier import Classifier, Secret
from app.serving.follower import Follower
from app.serving.runtime import Runtime
from app.serving.watcher import Watcher
from app.settings import Settings
from app.trail import Trail

logger = logging.getLogger(__name__)

ROUTED = (classify, queue, questions, annotations, domain_routes, batches, keywords, versions, operations, metrics)
LOG_SIZE = 500
# Folding one question costs nearly as much as folding a hundred, and a text must be in the queue within a second.
GATHER_SECONDS = 0.2
DESCRIPTION = "Active learning for text classification: log, label, train, prove, flip."


def create_app(settings: Settings) -> FastAPI:
    """The service, ready to be started; nothing is opened before it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = build(settings, app.state.metrics)
        app.state.services = app.state.metrics.services = services
        # Read ahead, beside the first requests: a service's first flip to a Chinese version must not wait for it.
        threading.Thread(target=load_dictionary, name="dictionary", daemon=True).start()
        services.watcher.start()
        services.folder.start()
        services.keys.refresh()
        if not services.keys.guarded:
            logger.warning(
                "there is no key: every program on this machine can read and change everything; "
                "`intentloop keys create --role admin` closes the door"
            )
        services.porter.start()
        try:
            yield
        finally:
            services.draining = True
            # In the order of a question's way, and beside the loop: what is in flight needs it to be answered.
            await asyncio.to_thread(services.extract.close)
            await services.classifier.close()
            await asyncio.to_thread(services.log.close)
            await asyncio.to_thread(services.watcher.stop)
            await asyncio.to_thread(services.folder.stop)
            await asyncio.to_thread(services.porter.stop)
            services.engine.dispose()

    # The pages of the API carry their own scripts: a closed network reaches no CDN.
    app = FastAPIOffline(
        redoc_url=None,
        title="intentloop",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # behind a proxy a redirect would name the wrong host
    )
    app.state.max_json_depth = settings.max_json_depth
    app.state.metrics = Metrics()
    routers = [module.router for module in ROUTED]
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    problems.install(app, routes)
    for router in routers:
        app.include_router(router)
    _add_layers(app, settings)
    _complete_document(app, routes)
    return app


def _add_layers(app: FastAPI, settings: Settings) -> None:
    """What every request passes on its way to its route."""
    # The last one added is the outermost: refusals, too, reach a browser only with the headers of CORS.
    app.add_middleware(OwnMachineOnly, allowed_hosts=settings.allowed_hosts, cors_origins=settings.cors_origins)
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
    app.add_middleware(
        Observed, metrics=app.state.metrics, access_level=logging.getLevelName(settings.access_log.upper())
    )


def build(settings: Settings, metrics: Metrics) -> Services:
    """Open the database and put the parts of one process together."""
    engine = connect(settings.url)
    counters.keep_days_in(engine, settings.zone)
    work = UnitOfWork(engine)
    secret = Secret(installation_secret(settings))
    runtime = Runtime(settings.artifacts)
    # SQLite has one writer, and who finds it busy sleeps and asks again: in one process the two stand in line instead.
    turn: AbstractContextManager[object] = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    def follow() -> int:
        with turn, metrics.folding():
            return fold_and_project(work)

    folder = Follower(follow, every_seconds=1.0, gather_seconds=GATHER_SECONDS, name="folder")

    def write(asked: Sequence[AskedQuestion]) -> list[intake.Logged]:
        with turn, metrics.writing():
            logged = work(intake.record, asked)
        folder.nudge()
        names = {loaded.release.state.domain_id: name for name, loaded in runtime.loaded.items()}
        # What was logged before is answered again, and counted once.
        new = (question for question, row in zip(asked, logged, strict=True) if row is question)
        metrics.logged((names.get(question.domain_id, OTHER), question.method) for question in new)
        return logged

    log: GreedyBatcher[AskedQuestion, intake.Logged] = GreedyBatcher(
        write, size=LOG_SIZE, capacity=settings.queue_size, name="log"
    )
    ring = KeyRing(
        lambda: work.read(keys.table), lambda used: work(keys.note_use, used), rate_per_minute=settings.rate_per_minute
    )
    trail = Trail(work, secret.key, settings.audit_head)

    def keep_door() -> int:
        ring.refresh()
        with turn:
            ring.write_uses()
            trail.seal()
        return 0

    watcher = _watcher(settings, work, runtime)
    classifier = Classifier(runtime, log, secret, capacity=settings.queue_size, refresh=watcher.look)
    return Services(
        engine=engine,
        work=work,
        secret=secret,
        runtime=runtime,
        watcher=watcher,
        folder=folder,
        keys=ring,
        porter=Follower(keep_door, every_seconds=1.0, name="porter"),
        log=log,
        take_in=bulk_intake(turn),
        classifier=classifier,
        rule=opening_rule(settings),
        lease_seconds=settings.lease_seconds,
        proposal_size=settings.proposal_size,
        extract=Extraction(settings),
    )


def bulk_intake(
    turn: AbstractContextManager[object],
) -> Callable[[UnitOfWork, Sequence[AskedQuestion]], list[intake.Logged]]:
    """Writes many questions at once, with the caller's unit of work."""

    def take_in(of_caller: UnitOfWork, asked: Sequence[AskedQuestion]) -> list[intake.Logged]:
        with turn:
            return of_caller(intake.record, asked)

    return take_in


def fold_and_project(work: UnitOfWork) -> int:
    """What may follow the log's commit: fold one slice of questions, bring labels to the twins of large texts."""
    folded = work(texts.fold)
    return folded or work(texts.project_due)


def _watcher(settings: Settings, work: UnitOfWork, runtime: Runtime) -> Watcher:
    replica = f"{socket.gethostname()}:{os.getpid()}"

    def states() -> list[DomainState]:
        return work.read(domains.states)

    def release(domain_id: int) -> Release:
        return work.read(domains.release, domain_id)

    def report(wanted: Release, error: str | None, corrupt: bool) -> None:
        if corrupt and wanted.version_id is not None and error is not None:
            work(version_service.mark_failed, wanted.version_id, error)
        work(
            runs.report_replica,
            replica,
            role="service",
            domain_id=wanted.state.domain_id,
            version_id=wanted.version_id,
            epoch=wanted.state.epoch,
            error=error,
        )

    return Watcher(runtime, states=states, release=release, report=report, poll_seconds=settings.poll_seconds)


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
