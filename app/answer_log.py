"""What the log of answers does with the database and the disk: write, hand on what was spooled, fold."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from sqlalchemy.exc import SQLAlchemyError

from app.api.metrics import OTHER, Metrics
from app.db.planning import analyse_if_unknown
from app.db.session import UnitOfWork, is_outage
from app.db.tables import Text, UserQuestion
from app.errors import SetupError
from app.intent.questions import AskedQuestion
from app.services import folding, intake, texts
from app.serving.follower import Follower
from app.serving.log import Database, Replayed
from app.serving.runtime import Runtime
from app.serving.spool import Spool
from app.settings import Settings

# What is folded in one go: on SQLite answers wait for it to be written.
FOLD_SLICE = 250
# After so many folded questions it is looked whether the database still knows what its tables hold.
LOOK_AT_TABLES = 1000


def log_database(
    work: UnitOfWork, turn: AbstractContextManager[object], folder: Follower, runtime: Runtime, metrics: Metrics
) -> Database[intake.Logged]:
    """What the log does with the database."""

    def count(new: Iterable[AskedQuestion]) -> None:
        folder.nudge()
        names = {loaded.release.state.domain_id: name for name, loaded in runtime.loaded.items()}
        metrics.logged((names.get(question.domain_id, OTHER), question.method) for question in new)

    def write(asked: Sequence[AskedQuestion]) -> list[intake.Logged | Exception]:
        with turn, metrics.writing():
            logged = record_each(work, asked)
        # What was logged before is answered again, and counted once.
        count(question for question, row in zip(asked, logged, strict=True) if row is question)
        return logged

    def replay(spooled: Sequence[AskedQuestion]) -> Replayed:
        with turn:
            done = replay_each(work, spooled)
        count(done.inserted)
        return Replayed(len(done.inserted), done.duplicates, done.quarantined, done.forgotten)

    def ask() -> None:
        with turn:
            work(intake.ready)

    return Database(write, replay, ask, is_outage)


def record_each(work: UnitOfWork, asked: Sequence[AskedQuestion]) -> list[intake.Logged | Exception]:
    """Log these in one transaction; if one of them is refused, each in its own, with the error in its place."""
    try:
        return list(work(intake.record, asked))
    except SQLAlchemyError as error:
        if len(asked) == 1 or is_outage(error):
            raise
    results: list[intake.Logged | Exception] = []
    for question in asked:
        try:
            results += work(intake.record, [question])
        except SQLAlchemyError as error:
            if is_outage(error):
                raise
            results.append(error)
    return results


def replay_each(work: UnitOfWork, spooled: Sequence[AskedQuestion]) -> intake.Replay:
    """Bring spooled questions into the database, where one of them cannot stop the others."""
    try:
        return work(intake.replay, spooled)
    except SQLAlchemyError as error:
        if is_outage(error):
            raise
    done = intake.Replay()
    for question in spooled:
        try:
            done.add(work(intake.replay, [question]))
        except SQLAlchemyError as error:
            if is_outage(error):
                raise
            done.add(work(intake.refused, question))
    return done


def open_spool(settings: Settings) -> Spool | None:
    """The spool of this process, unless nothing may be answered that is not in the database."""
    if settings.log_mode == "strict":
        return None
    try:
        return Spool(settings.spool, max_bytes=settings.spool_max_bytes, max_rows=settings.spool_max_rows)
    except OSError as error:
        raise SetupError(f"the spool {settings.spool} cannot be written: {error.strerror}") from error


def bulk_intake(
    turn: AbstractContextManager[object],
) -> Callable[[UnitOfWork, Sequence[AskedQuestion]], list[intake.Logged]]:
    """Writes many questions at once, with the caller's unit of work."""

    def take_in(of_caller: UnitOfWork, asked: Sequence[AskedQuestion]) -> list[intake.Logged]:
        with turn:
            return of_caller(intake.record, asked)

    return take_in


class Folding:
    """What may follow the log's commit: fold a slice of questions, bring labels to the twins of large texts."""

    def __init__(self, work: UnitOfWork, turn: AbstractContextManager[object]) -> None:
        self._work = work
        self._turn = turn
        self._since_look = 0

    def __call__(self) -> bool:
        """One slice. Returns whether more of it waits.

        What came while a slice was folded does not: each slice has its price, and under load there would always be
        some.
        """
        folded = fold_aside(self._work, self._turn, limit=FOLD_SLICE)
        self._since_look += folded
        if self._since_look >= LOOK_AT_TABLES:
            self._since_look = 0
            self._work(analyse_if_unknown, Text.__tablename__, UserQuestion.__tablename__)
        if folded == FOLD_SLICE:
            return True
        if not self._work.read(texts.is_due):
            return False
        with self._turn:
            return bool(self._work(texts.project_due))


def fold_aside(work: UnitOfWork, turn: AbstractContextManager[object], *, limit: int) -> int:
    """Fold up to `limit` questions; where one writer stops all others, with the writing alone as a writer.

    What was prepared meanwhile is looked at again before it is written, and folded anew where somebody changed it.
    Returns how many.
    """
    if work.engine.dialect.name != "sqlite":
        return work(folding.fold, limit=limit)
    slice_ = work.read(folding.prepare, limit=limit, aside=True)
    if slice_ is None:
        return 0
    with turn:
        try:
            work(slice_.write)
            return len(slice_.question_ids)
        except folding.Stale:
            return work(folding.fold, limit=limit)
