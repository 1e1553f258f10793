"""Examine an installation: every check in its order, and the verdict."""

from collections.abc import Iterator, Sequence

from sqlalchemy.exc import SQLAlchemyError

from app.operations import check_database, check_loop, check_machine, check_scorers
from app.operations.findings import Check, Finding, Patient

# A failing one of these, and there is no use in asking the database more.
UNUSABLE = ("reach", "schema")
MACHINE: Sequence[Check] = (
    check_machine.folders,
    check_machine.secret,
    check_machine.file_system,
    check_machine.time_zone,
)
DATABASE: Sequence[Check] = (
    check_database.there,
    check_database.server,
    check_database.clock_skew,
    check_database.schema,
)
LOOP: Sequence[Check] = (
    check_loop.processes,
    check_loop.jobs,
    check_loop.artifacts,
    check_scorers.libraries,
    check_loop.versions,
    check_loop.training,
    check_loop.backlog,
    check_loop.spooled,
    check_loop.taxonomies,
    check_loop.keys,
    check_loop.audit_trail,
)


def examine(patient: Patient) -> Iterator[Finding]:
    """Every finding, as it is made."""
    for check in MACHINE:
        yield from _run(check, patient)
    usable = True
    for check in DATABASE:
        for finding in _run(check, patient):
            usable &= finding.level != "fail" or finding.check not in UNUSABLE
            yield finding
        if not usable:
            return
    for check in LOOP:
        yield from _run(check, patient)


def _run(check: Check, patient: Patient) -> Iterator[Finding]:
    try:
        yield from check(patient)
    except SQLAlchemyError as error:
        # The kind alone: the message may hold the address with its password, or a row.
        kind = type(getattr(error, "orig", None) or error).__name__
        advice = "see that it runs, and that INTENTLOOP_DATABASE_URL names it with a user that may read it"
        yield Finding("reach", "fail", f"the database does not answer ({kind}; {check.__name__})", advice)


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing fails."""
    return all(finding.level != "fail" for finding in findings)
