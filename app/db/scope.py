"""Bound a session to some domains: what lies in others is not there for it, whatever a service asks."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria
from sqlalchemy.orm.util import LoaderCriteriaOption

from app.db.tables import Base, Domain, Replica

# An execution option: this statement names no table of ours, so there is nothing to bound.
OF_NO_DOMAIN = "intentloop_of_no_domain"
_ALLOWED = "domain_ids"


class OutOfScope(Exception):
    """A bounded session was about to do what cannot be bounded, or to write into another domain: a mistake of ours."""


class ScopedSession(Session):
    """A session of somebody who may see these domains and no other.

    The listeners below hang on this class alone: who may see everything pays nothing for them.
    """

    def __init__(self, bind: Engine, domain_ids: frozenset[int]) -> None:
        super().__init__(bind, expire_on_commit=False, info={_ALLOWED: domain_ids})


@lru_cache(maxsize=1024)
def _criteria(domain_ids: frozenset[int]) -> tuple[LoaderCriteriaOption, ...]:
    """One criterion for each table that belongs to domains, for every place of a statement that names it."""
    ids = sorted(domain_ids)
    options = [with_loader_criteria(Domain, Domain.id.in_(ids), include_aliases=True)]
    for mapper in Base.registry.mappers:
        if "domain_id" in mapper.columns:
            # A clock serves no domain, and everybody may know whether one runs.
            wanted = [*ids, 0] if mapper.class_ is Replica else ids
            column = mapper.class_.domain_id
            options.append(with_loader_criteria(mapper.class_, column.in_(wanted), include_aliases=True))
    return tuple(options)


@event.listens_for(ScopedSession, "do_orm_execute")
def _bound(state: ORMExecuteState) -> None:
    allowed: frozenset[int] = state.session.info[_ALLOWED]
    # The columns of a row in hand: it was loaded, or made, within the bounds.
    if state.is_column_load:
        return
    if not state.is_orm_statement:
        if not state.execution_options.get(OF_NO_DOMAIN):
            raise OutOfScope("a bounded session runs statements over mapped classes only")
        return
    if state.is_insert:
        _refuse_foreign_inserts(state, allowed)
        return
    state.statement = state.statement.options(*_criteria(allowed))


@event.listens_for(ScopedSession, "before_flush")
def _refuse_foreign_rows(session: Session, *_: Any) -> None:
    allowed: frozenset[int] = session.info[_ALLOWED]
    for row in session.new:
        if isinstance(row, Domain):
            raise OutOfScope("a bounded session makes no domain: it could not see it")
    for row in (*session.new, *session.dirty):
        _refuse(getattr(row, "domain_id", None), allowed)


def _refuse_foreign_inserts(state: ORMExecuteState, allowed: frozenset[int]) -> None:
    mapper = state.bind_mapper
    if mapper is None or "domain_id" not in mapper.columns:
        return
    given: Any = state.parameters or {}
    rows = given if isinstance(given, list) else [given]
    for row in rows:
        # Values within the statement cannot be read here: the rows stand beside it.
        if "domain_id" not in row:
            raise OutOfScope("a bounded session inserts rows that name their domain")
        _refuse(row["domain_id"], allowed)


def refuse_foreign(session: Session, domain_ids: Iterable[int]) -> None:
    """For a statement that the listeners above do not see: fail unless the session may write into these domains.

    Raises:
        OutOfScope: it is bounded to others.
    """
    if isinstance(session, ScopedSession):
        for domain_id in set(domain_ids):
            _refuse(domain_id, session.info[_ALLOWED])


def _refuse(domain_id: int | None, allowed: frozenset[int]) -> None:
    if domain_id is not None and domain_id not in allowed:
        raise OutOfScope("a bounded session was about to write into another domain")
