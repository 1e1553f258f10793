"""What the doctor finds: one line each, with what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from app.db.session import UnitOfWork
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `level`: ok, warn (works, should be mended) or fail (does not work as promised).

    `advice` says what to do; empty when there is nothing to do.
    """

    check: str
    level: str
    says: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Patient:
    """The installation that is examined.

    `thorough`: also read every page of an SQLite file. `secret`: the installation's key, None where there is none yet.
    """

    settings: Settings
    work: UnitOfWork
    thorough: bool = False
    secret: bytes | None = None


Check = Callable[[Patient], Iterable[Finding]]
