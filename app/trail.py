"""Chain the audit trail's new rows, and remember on this machine where the chain ended."""

import json
import logging
import os
from pathlib import Path

from app.db.session import UnitOfWork
from app.errors import SetupError
from app.services import audit
from app.services.audit import Head

logger = logging.getLogger(__name__)


class Trail:
    """Seals for one process.

    The chain shows what was altered or deleted within it, but not that its end was cut off: whoever cuts rows off the
    database does not reach the file in which each machine keeps the last row that it sealed.
    """

    def __init__(self, work: UnitOfWork, secret: bytes, path: Path) -> None:
        self._work = work
        self._secret = secret
        self._path = path
        self._broken = False

    def seal(self) -> None:
        """Give every committed row its place; without new rows it is one read."""
        while self._work.read(audit.anything_to_seal):
            remembered = remembered_head(self._path)
            stands = remembered is None or self._work.read(audit.stands, remembered)
            head = self._work(audit.seal, secret=self._secret)
            if not stands and not self._broken:
                logger.error("the audit trail was cut or altered: `intentloop audit verify` says where")
            self._broken = not stands
            if stands and head is not None:
                _remember(self._path, head)


def remembered_head(path: Path) -> Head | None:
    """The last row that this machine sealed, or None when it sealed none yet.

    Raises:
        SetupError: the file is there and cannot be read as one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Head(int(values["sequence"]), str(values["chain_hash"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{path} does not hold the end of the audit trail: {type(error).__name__}") from error


def _remember(path: Path, head: Head) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, and of several processes each its own.
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.write_text(json.dumps({"sequence": head.sequence, "chain_hash": head.chain_hash}), encoding="utf-8")
    made.replace(path)
