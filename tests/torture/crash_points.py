"""Strike a training at each of its steps, in four ways, on three databases; what is left must be whole and finish.

A step is a change of files, a `fsync`, a started process or a commit of the job or of its trainer:
`faults/sitecustomize.py` finds them by itself in an undisturbed run, so a new step of the work is a new row of the
matrix. At each of them, in a world of its own, the process is killed, asked to end, told that the disk is full, or told
that the disk or the database failed. Then a clock starts, as it would on that machine, and has to bring every label
into a version that serves.

Counted as broken, by case: a batch that neither ended nor failed, a label claimed by no living batch or used twice, a
version whose artifact is not what was registered, more than one active version, an epoch without its activation, a
world that did not finish. All must be zero. `--quick` takes a sample of the cases, on SQLite.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.db.tables import Domain, ModelActivation, ModelVersion
from bench.result import Bar, CannotRun, Result
from tests.conftest import BACKENDS, Databases
from tests.journeys.processes import NEVER, ROOT, Installation, installation, stop, wait_for
from tests.journeys.worlds import check_whole, queue_a_batch

KINDS = ("kill", "term", "full", "error")
FAULTS = Path(__file__).parent / "faults"
QUICK_CASES = 8
# A clock takes a batch for lost after two seconds here, and tries again half a second later.
FINISH_SECONDS = 90
LABELS_EACH = 12


@dataclass(frozen=True, slots=True)
class Case:
    """One step struck in one way on one database."""

    backend: str
    step: str
    kind: str


def run(*, quick: bool, seed: int) -> Result:
    """Strike every case, or a seeded sample of them."""
    backends = BACKENDS[:1] if quick else BACKENDS
    broken: list[str] = []
    reached = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases = Databases(stack, folder)
        steps = {backend: _steps(databases, folder, backend) for backend in backends}
        cases = [Case(backend, step, kind) for backend in backends for step in steps[backend] for kind in KINDS]
        random.Random(seed).shuffle(cases)
        for number, case in enumerate(cases[:QUICK_CASES] if quick else cases):
            struck, found = _play(databases, folder / f"case{number}", case)
            reached += struck
            if found is not None:
                broken.append(f"{case.backend}, {case.kind} at {case.step}: {found}")
                print(f"broken: {broken[-1]}", flush=True)
    played = min(len(cases), QUICK_CASES) if quick else len(cases)
    figures = {"steps": float(max(map(len, steps.values()))), "cases": float(played), "struck": float(reached)}
    return Result(
        figures,
        {
            "broken": Bar(len(broken), at_most=0),
            # A step that an undisturbed run has and this one had not is a case that was not played.
            "struck_share": Bar(reached / max(1, played), at_least=0.95),
        },
    )


def _steps(databases: Databases, folder: Path, backend: str) -> list[str]:
    """Every step of an undisturbed training, in order."""
    with _world(databases, folder / f"steps-{backend}", backend) as world:
        log = _work(world, Case(backend, "", ""))
        found = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        if not any(step.startswith("trainer: ") for step in found) or not world.work.read(_active):
            raise CannotRun(f"an undisturbed training on {backend} did not end well: {world.said()[-500:]}")
    return found


def _world(databases: Databases, folder: Path, backend: str) -> Iterator[Installation]:
    folder.mkdir()
    try:
        url = databases.fresh(backend, folder)
    except (pytest.fail.Exception, pytest.skip.Exception) as error:
        raise CannotRun(str(error)) from error
    return installation(folder, url, SELECT_CRON=NEVER)


def _work(world: Installation, case: Case) -> Path:
    """Queue a batch and train it in a process that is struck at the case's step; returns the log of its steps."""
    queue_a_batch(world, {"folds": 2, "strengths": [30]})
    log = world.folder / "steps.log"
    faults = {"FAULT_LOG": log, "FAULT_DATA": world.folder, "FAULT_AT": case.step, "FAULT_KIND": case.kind}
    world.run("job", "train_model", environment={**faults, "PYTHONPATH": f"{FAULTS}:{ROOT}"})
    return log


def _play(databases: Databases, folder: Path, case: Case) -> tuple[bool, str | None]:
    """Whether the step was reached, and what was broken, if anything was."""
    try:
        with _world(databases, folder, case.backend) as world:
            log = _work(world, case)
            struck = log.exists() and case.step in log.read_text(encoding="utf-8").splitlines()
            try:
                check_whole(world)
                clock = world.start("clock")
                wait_for(lambda: _finished(world), seconds=FINISH_SECONDS, what="the end")
                stop(clock)
                check_whole(world)
                return struck, world.work.read(_contradiction)
            except Exception as error:
                return struck, f"{type(error).__name__}: {error}"
            except AssertionError as error:
                return struck, str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finished(world: Installation) -> bool:
    ended = all(batch.training_status in ("completed", "failed") for batch in world.batches())
    return ended and world.training_states() == {"used": LABELS_EACH * 3} and bool(world.work.read(_active))


def _active(session):  # type: ignore[no-untyped-def]
    return session.scalars(select(ModelVersion.id).where(ModelVersion.is_active.is_(True))).all()


def _contradiction(session) -> str | None:  # type: ignore[no-untyped-def]
    domain = session.scalars(select(Domain)).one()
    active = _active(session)
    if list(active) != [domain.active_version_id]:
        return f"the pointer says {domain.active_version_id}, the versions {list(active)}"
    flips = session.scalar(select(func.count(ModelActivation.id)))
    if flips != domain.epoch:
        return f"epoch {domain.epoch} after {flips} activations"
    return None
