"""Choose the one SQLite library of this process, and know which releases of it can damage a file.

Two copies of SQLite in one process break each other's POSIX locks on a file that both have open: all of our code
opens SQLite through `DRIVER`.
"""

import importlib
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

logger = logging.getLogger(__name__)

Version = tuple[int, ...]

# Brought by its own package with a mended library where there is a wheel for the platform; Python's own links whatever
# the system has.
_CANDIDATES: Final = ("pysqlite3.dbapi2", "sqlite3.dbapi2")

# Since the write-ahead log exists, a writer may start it anew while a checkpoint runs that does not see it: pages are
# then lost. Mended in 3.51.3 and in these two older lines of releases.
BROKEN_SINCE: Final = (3, 7, 0)
MENDED: Final = (3, 51, 3)
MENDED_LINES: Final = ((3, 50, 7), (3, 44, 6))


def is_safe(version: Version) -> bool:
    """Whether this release of SQLite cannot lose pages when its write-ahead log starts anew during a checkpoint."""
    if version < BROKEN_SINCE or version >= MENDED:
        return True
    return any(version[:2] == line[:2] and version >= line for line in MENDED_LINES)


def best(versions: Sequence[Version]) -> int:
    """Which of these libraries to use: a safe one before any other, then the newest, then the first."""
    return max(range(len(versions)), key=lambda place: (is_safe(versions[place]), versions[place], -place))


def _choose() -> Any:
    found: list[ModuleType] = []
    for name in _CANDIDATES:
        try:
            found.append(importlib.import_module(name))
        except ImportError:
            continue
    return found[best([module.sqlite_version_info for module in found])]


DRIVER: Final = _choose()
"""The DB-API module through which this process reaches SQLite, and no other."""


def version() -> Version:
    """The release of SQLite that this process uses."""
    found: Version = DRIVER.sqlite_version_info
    return found


def warn_if_broken(dialect: str) -> None:
    """Say in the log at the start that the database's file is at risk."""
    if dialect == "sqlite" and not is_safe(version()):
        logger.warning(
            "SQLite %s can, rarely, damage the database when several processes write to it; `intentloop doctor` says "
            "what to do",
            DRIVER.sqlite_version,
        )
