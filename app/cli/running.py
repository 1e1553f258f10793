"""Run it: service, clock, both, one job, and the migrations.

What takes a second to import (the web framework, the statistics of the gate) is imported by the command that needs it.
"""

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from app import logs
from app.cli.opening import JsonOption, console, database, log_to_stderr, print_json, reach, settings
from app.cli.workers import UNDER_UP, Told, Workers, told
from app.db.schema import migrate as migrate_schema
from app.db.session import UnitOfWork
from app.errors import IntentError, SetupError
from app.remembered import remembered_releases
from app.services import domains, keys, recounting
from app.settings import Settings
from jobs.context import JobContext
from jobs.ledger import Ledger
from jobs.reasons import in_words
from jobs.timetable import TIMETABLE

app = typer.Typer()
logger = logging.getLogger(__name__)

HostOption = Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")]
PortOption = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on. [default: 8001]")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, max=64, help="Processes that answer on this port. [default: 1]")
]

# To flush the log and end the threads, after what was in flight.
STOP_SECONDS = 20.0
BACKLOG = 2048
# Files beside connections: databases, artifacts, sockets of the pool.
OTHER_FILES = 256
RESTART_SECONDS = 1.0


@app.command()
def migrate() -> None:
    """Bring the database to the schema of this release. Safe to run at any time, and from several places at once."""
    given = settings()
    _migrate(given)
    console.print("The database is up to date.")


@app.command()
def serve(host: HostOption = None, port: PortOption = None, workers: WorkersOption = None) -> None:
    """Run the service: it classifies, logs, and hands questions to labelers. Trains nothing: see `clock`.

    SIGTERM ends it in order: what was accepted is answered first. With several workers one that dies is started
    again, and SIGHUP replaces them one by one. Exit status: 0 stopped, 1 it could not start.
    """
    given = settings(host=host, port=port, workers=workers)
    log_to_stderr()
    as_worker = told()
    if as_worker is not None:
        _serve(given, as_worker.listener, as_worker=as_worker)
        return
    _refuse_to_serve(given)
    listener = _listener(given)
    logger.info("listening on http://%s:%d (API: /docs)", given.host, listener.getsockname()[1])
    if given.workers == 1:
        _serve(given, listener)
        return
    listener.listen(BACKLOG)
    _stop_with_parent()
    Workers(given, listener).run()


def _serve(given: Settings, listener: socket.socket, *, as_worker: Told | None = None) -> None:
    """Answer in this process, until a signal."""
    from threadpoolctl import threadpool_limits

    from app.api.server import Server
    from app.main import create_app

    _stop_with_parent()
    _allow_connections(given)
    if as_worker is None:
        server = Server(create_app(given), given)
    else:
        app = create_app(given, figures=as_worker.figures, generative=as_worker.generative)
        server = Server(app, given, on_started=as_worker.accept, shares=as_worker.shares)
    # The server stops in order at a signal, and then raises it again for whoever was there before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with threadpool_limits(given.threads_each):
        server.run(sockets=[listener])
    if not server.started:
        raise SetupError("the service could not start; the lines above say why")


def _allow_connections(given: Settings) -> None:
    """Raise what the system allows this process to the connections that it may hold, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = given.max_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@app.command()
def clock() -> None:
    """Run the clock: it selects questions, opens batches, trains, proves and flips. Two on one database are safe.

    SIGTERM ends it in order: a batch that trains is given back whole, for another clock or the next start.
    """
    from jobs.clock import Clock

    given = settings()
    _check_timetable(given)
    log_to_stderr()
    stop = stopped_by_signals()
    with database(given) as work:
        keeper = Clock(context(given, work))
        _stop_with_parent()
        keeper.start()
        logger.info("the clock runs: %s", ", ".join(f"{n} at {e.cron(given)!r}" for n, e in TIMETABLE.items()))
        while not stop.wait(1.0):
            pass
        keeper.stop()


@app.command()
def up(host: HostOption = None, port: PortOption = None, workers: WorkersOption = None) -> None:
    """Run everything on one machine: migrate, then service and clock together until Ctrl-C.

    A clock that dies is started again. Exit status: 0 stopped, 1 the service could not start or died.
    """
    given = settings(host=host, port=port, workers=workers)
    _check_timetable(given)
    log_to_stderr()
    stop = stopped_by_signals()
    _migrate(given)
    with database(given) as work:
        _refuse_open_to_others(given, work)
    service = _start("serve", "--host", given.host, "--port", str(given.port), "--workers", str(given.workers))
    keeper = _start("clock")
    try:
        while not stop.wait(0.2):
            if service.poll() is not None:
                raise SetupError(f"the service ended with status {service.returncode}")
            if keeper.poll() is not None:
                logger.error("the clock ended with status %s; it is started again", keeper.returncode)
                if stop.wait(RESTART_SECONDS):
                    break
                keeper = _start("clock")
    finally:
        for process in (service, keeper):
            process.terminate()
        for process in (service, keeper):
            _wait(process, given.drain_seconds + given.grace_seconds + STOP_SECONDS)


@app.command()
def job(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(TIMETABLE)}.")], as_json: JsonOption = False
) -> None:
    """Run one job now, in this process, and record it like any other run.

    `train_model` opens the batches that are due and trains everything that is queued. SIGTERM and Ctrl-C give the
    batch that trains back whole. Exit status: 0 done, 1 the job failed or was stopped.
    """
    if name not in TIMETABLE:
        raise typer.BadParameter(f"there is no job {name!r}; there are {', '.join(TIMETABLE)}")
    given = settings()
    log_to_stderr(logging.WARNING)
    with database(given) as work:
        within = replace(context(given, work), stopping=stopped_by_signals())
        detail = _run_job(within, name)
    if as_json:
        print_json(detail)
    else:
        console.print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in detail.items()), markup=False)
    if within.stopping.is_set():
        raise IntentError(f"{name} was stopped")


def _run_job(within: JobContext, name: str) -> dict[str, Any]:
    from jobs.training import train_next

    ledger = Ledger(within)
    with ledger.beating():
        run_id = ledger.take(name, datetime.now(UTC))
        if run_id is None:
            raise IntentError("another process ran this job in the same microsecond")
        try:
            detail = dict(ledger.run(name, run_id))
        except Exception as error:
            raise IntentError(f"{name} failed: {in_words(error)}") from error
        if name == "train_model":
            trained = []
            while not within.stopping.is_set() and (batch_id := train_next(within)) is not None:
                trained.append(batch_id)
            detail["trained"] = trained
    return detail


def stopped_by_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT, from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _check_timetable(given: Settings) -> None:
    """Say at once what is wrong: a clock that cannot start would be started again for ever."""
    try:
        for entry in TIMETABLE.values():
            entry.slots(given)
    except SetupError as error:
        typer.echo(logs.masked(str(error)), err=True)
        raise typer.Exit(2) from error


def _listener(given: Settings) -> socket.socket:
    """A bound socket, so that a taken port is one sentence, and port 0 is a port that can be named.

    Raises:
        SetupError: the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            given.host, given.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise SetupError(f"the service cannot listen on {given.host}:{given.port}: {error.strerror}") from error
    return listener


def context(given: Settings, work: UnitOfWork) -> JobContext:
    """What jobs get in this process."""
    from app.main import opening_rule

    given.artifacts.mkdir(parents=True, exist_ok=True)
    return JobContext(given, work, opening_rule(given))


def _migrate(given: Settings) -> None:
    given.data_dir.mkdir(parents=True, exist_ok=True)
    given.artifacts.mkdir(parents=True, exist_ok=True)
    engine = reach(given)
    try:
        migrate_schema(engine)
        work = UnitOfWork(engine)
        work(domains.ensure_default)
        for name in work(recounting.rebuild_missing):
            logger.info("the figures of domain %s were counted from its questions", name)
    finally:
        engine.dispose()


def _start(command: str, *arguments: str) -> subprocess.Popen[bytes]:
    # A group of its own: Ctrl-C reaches this process alone, which then stops both in order. The pipe that nobody writes
    # to ends with this process, however it ends, and the child with the pipe.
    return subprocess.Popen(
        [sys.executable, "-m", "app", command, *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, UNDER_UP: "1"},
        start_new_session=True,
    )


def _stop_with_parent() -> None:
    """Under `up`: stop when it is gone, killed by -9 too, instead of holding the port and the clock for nobody."""
    if os.environ.get(UNDER_UP) != "1":
        return

    def wait_for_end() -> None:
        # Not through sys.stdin: its lock, held here, would be a fatal error when the process ends by itself.
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_end, name="parent", daemon=True).start()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        logger.error("process %d did not stop and is killed", process.pid)
        process.kill()
        process.wait()


def _refuse_to_serve(given: Settings) -> None:
    """Say at once why it could not serve. A database that does not answer is no reason while something can be served.

    Raises:
        SetupError: the schema is another, others could reach it without a key, or there is nothing to serve.
    """
    from app.api.loopback import is_loopback

    try:
        with database(given) as work:
            _refuse_open_to_others(given, work)
    except (OperationalError, InterfaceError, NoConnectionFree) as error:
        if not given.start_degraded or not remembered_releases(given.last_known):
            raise
        if not is_loopback(given.host.lower()) and not _is_known_to_be_guarded(given):
            raise SetupError(
                f"others can reach {given.host}, and without the database nobody knows whether there is a key"
            ) from error
        kind = type(getattr(error, "orig", None) or error).__name__
        logger.warning("the database does not answer (%s): the service starts with what it served last", kind)


def _is_known_to_be_guarded(given: Settings) -> bool:
    from app.remembered_keys import last_keys

    table = last_keys(given.last_known)
    return table is not None and table.guarded


def _refuse_open_to_others(given: Settings, work: UnitOfWork) -> None:
    """Without keys only this machine may reach the service.

    Raises:
        SetupError: it would listen where others are, and no key was ever made.
    """
    from app.api.loopback import is_loopback

    if not is_loopback(given.host.lower()) and not work.read(keys.any_was_made):
        raise SetupError(
            f"others can reach {given.host}, and there is no key: make one first with "
            "`intentloop keys create --role admin`, or listen on 127.0.0.1"
        )
