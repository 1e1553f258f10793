"""Let PostgreSQL know what a table holds, where it grew faster than its own daemon looks at it."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

# Fewer rows are found fast by any plan.
FEW_ROWS: Final = 1000
_UNKNOWN: Final = text(
    "SELECT relname FROM pg_stat_user_tables WHERE schemaname = current_schema() AND relname = ANY(:names) "
    "AND n_mod_since_analyze > :few + 2 * (n_live_tup - n_mod_since_analyze)"
)


def analyse_if_unknown(session: Session, *tables: str) -> list[str]:
    """Gather statistics of those tables most of whose rows came after the last time; which they are.

    Without any, the planner takes a domain for a two-hundredth of its table and reads all of it for each slice of
    texts: after a large import folding would slow down with every row, until the daemon comes by a minute later.
    """
    if session.get_bind().dialect.name != "postgresql":
        return []
    connection = session.connection()
    unknown = list(connection.execute(_UNKNOWN, {"names": list(tables), "few": FEW_ROWS}).scalars())
    for name in unknown:
        connection.exec_driver_sql(f"ANALYZE {connection.dialect.identifier_preparer.quote(name)}")
    return unknown
