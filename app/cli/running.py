"""Run it: service, clock, both, one job, and the migrations."""

import ipaddress
import logging
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
import uvicorn

from app.cli.opening import JsonOption, console, database, log_to_stderr, print_json, settings
from app.db.schema import migrate as migrate_schema
from app.db.session import UnitOfWork, connect
from app.errors import SetupError
from app.main import create_app, opening_rule
from app.services import domains
from app.settings import Settings
from jobs.clock import Clock
from jobs.context import JobContext
from jobs.ledger import Ledger
from jobs.timetable import TIMETABLE
from jobs.training import train_next

app = typer.Typer()
logger = logging.getLogger(__name__)

HostOption = Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")]
PortOption = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on. [default: 8001]")]

GRACE_SECONDS = 10
RESTART_SECONDS = 1.0


@app.command()
def migrate() -> None:
    """Bring the database to the schema of this release. Safe to run at any time, and from several places at once."""
    given = settings()
    _migrate(given)
    console.print("The database is up to date.")


@app.command()
def serve(host: HostOption = None, port: PortOption = None) -> None:
    """Run the service: it classifies, logs, and hands questions to labelers. Trains nothing: see `clock`."""
    given = settings(host=host, port=port)
    log_to_stderr()
    with database(given):
        pass
    _warn_if_open(given)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(given),
            host=given.host,
            port=given.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    logger.info("listening on http://%s:%d (API: /docs)", given.host, given.port)
    server.run()
    if not server.started:
        raise SetupError(f"the service could not start on {given.host}:{given.port}")


@app.command()
def clock() -> None:
    """Run the clock: it selects questions, opens batches, trains, proves and flips. Two on one database are safe."""
    given = settings()
    log_to_stderr()
    with database(given) as work:
        keeper = Clock(context(given, work))
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        keeper.start()
        logger.info("the clock runs: %s", ", ".join(f"{n} at {e.cron(given)!r}" for n, e in TIMETABLE.items()))
        while not stop.wait(1.0):
            pass
        keeper.stop()


@app.command()
def up(host: HostOption = None, port: PortOption = None) -> None:
    """Run everything on one machine: migrate, then service and clock together until Ctrl-C."""
    given = settings(host=host, port=port)
    log_to_stderr()
    _migrate(given)
    arguments = ["--host", given.host, "--port", str(given.port)]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    service = _start("serve", *arguments)
    keeper = _start("clock")
    try:
        while not stop.wait(0.2):
            if service.poll() is not None:
                raise SetupError(f"the service ended with status {service.returncode}")
            if keeper.poll() is not None:
                logger.error("the clock ended with status %s; it is started again", keeper.returncode)
                time.sleep(RESTART_SECONDS)
                keeper = _start("clock")
    finally:
        for process in (service, keeper):
            process.terminate()
        for process in (service, keeper):
            _wait(process)


@app.command()
def job(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(TIMETABLE)}.")], as_json: JsonOption = False
) -> None:
    """Run one job now, in this process, and record it like any other run.

    `train_model` opens the batches that are due and trains everything that is queued.
    """
    if name not in TIMETABLE:
        raise typer.BadParameter(f"there is no job {name!r}; there are {', '.join(TIMETABLE)}")
    given = settings()
    log_to_stderr(logging.WARNING)
    with database(given) as work:
        within = context(given, work)
        detail: dict[str, Any] = Ledger(within).run(name, datetime.now(UTC)) or {}
        if name == "train_model":
            trained = []
            while (batch_id := train_next(within)) is not None:
                trained.append(batch_id)
            detail["trained"] = trained
    if as_json:
        print_json(detail)
    else:
        console.print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in detail.items()))


def context(given: Settings, work: UnitOfWork) -> JobContext:
    """What jobs get in this process."""
    given.artifacts.mkdir(parents=True, exist_ok=True)
    return JobContext(given, work, opening_rule(given))


def _migrate(given: Settings) -> None:
    given.data_dir.mkdir(parents=True, exist_ok=True)
    given.artifacts.mkdir(parents=True, exist_ok=True)
    engine = connect(given.url)
    try:
        migrate_schema(engine)
        UnitOfWork(engine)(domains.ensure_default)
    finally:
        engine.dispose()


def _start(command: str, *arguments: str) -> subprocess.Popen[bytes]:
    # A group of its own: Ctrl-C reaches this process alone, which then stops both in order.
    return subprocess.Popen([sys.executable, "-m", "app", command, *arguments], start_new_session=True)


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=GRACE_SECONDS + 5)
    except subprocess.TimeoutExpired:
        logger.error("process %d did not stop and is killed", process.pid)
        process.kill()
        process.wait()


def _warn_if_open(given: Settings) -> None:
    try:
        local = ipaddress.ip_address(given.host).is_loopback
    except ValueError:
        local = given.host == "localhost"
    if not local:
        logger.warning(
            "whoever reaches %s can read and change everything: put a proxy with a key before it", given.host
        )
