"""Remember how far the import of a file has come, in the transaction that takes its rows in."""

from collections import Counter
from dataclasses import dataclass, replace

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.tables import FileImport, now
from app.errors import Conflict
from app.services import domains
from app.services.imports import ImportReport


@dataclass(frozen=True, slots=True)
class Place:
    """Where the import of a file is: so many rows are in, and so long is the report about them.

    Without `id` it is not kept: of a file that can be read only once.
    """

    id: int | None = None
    rows: int = 0
    report_bytes: int = 0


def begin(session: Session, domain_name: str, key: str, *, restart: bool = False) -> tuple[Place, ImportReport]:
    """Where this file was left, with what became of its rows so far; at its beginning if it was finished or is new."""
    domain_id = domains.find(session, domain_name).id
    found = session.scalar(
        select(FileImport).where(FileImport.domain_id == domain_id, FileImport.key == key).with_for_update()
    )
    if found is None:
        found = FileImport(domain_id=domain_id, key=key)
        session.add(found)
    if found.id is None or restart or found.finished_at is not None:
        found.rows_done, found.counts, found.refused, found.report_bytes = 0, {}, [], 0
        found.finished_at, found.updated_at = None, now()
        session.flush()
    so_far = ImportReport(counts=Counter(found.counts), refused=[(line, reason) for line, reason in found.refused])
    return Place(found.id, found.rows_done, found.report_bytes), so_far


def advance(session: Session, place: Place, rows: int, report_bytes: int, so_far: ImportReport) -> Place:
    """Move on by these rows. `so_far`: what became of all rows up to there.

    Raises:
        Conflict: the import was moved by another process.
    """
    further = replace(place, rows=place.rows + rows, report_bytes=report_bytes)
    if place.id is None:
        return further
    _change(
        session,
        place,
        rows_done=further.rows,
        counts=dict(so_far.counts),
        refused=so_far.refused,
        report_bytes=report_bytes,
        updated_at=now(),
    )
    return further


def finish(session: Session, place: Place) -> None:
    """All rows are in: the next import of this file begins anew."""
    if place.id is not None:
        _change(session, place, finished_at=now())


def _change(session: Session, place: Place, **values: object) -> None:
    result = session.execute(
        update(FileImport).where(FileImport.id == place.id, FileImport.rows_done == place.rows).values(**values),
        execution_options={"synchronize_session": False},
    )
    if result.rowcount != 1:  # type: ignore[attr-defined]
        raise Conflict("another process is importing the same file: let it end, or end it, and run this again")
