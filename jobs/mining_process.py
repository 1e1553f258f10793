"""`python -m jobs.mining_process`: mine one domain for the service, in a process that holds nobody up.

One JSON object on standard input says what to do; the answer is one JSON object on standard output. The settings come
this way too, secrets included, because neither an argument nor the environment is a place for them.
"""

import json
import os
import sys
import threading
from typing import Any

from app.db.session import UnitOfWork, connect
from app.errors import IntentError
from app.services.audit import Actor
from app.services.batches import OpeningRule
from app.settings import Settings
from jobs.context import JobContext
from jobs.mine_keywords import mine_domain
from jobs.reasons import in_words

# Serving goes first.
NICER = 10


def main() -> None:
    """Read the request, mine, answer: `{"found": …}` or `{"code": …, "message": …}`."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    os.nice(NICER)
    try:
        answer: dict[str, Any] = {"found": _mine(request)}
    except IntentError as error:
        answer = {"code": error.code, "message": str(error)}
    except Exception as error:
        answer = {"code": "internal_error", "message": in_words(error)}
    print(json.dumps(answer), flush=True)


def _mine(request: dict[str, Any]) -> dict[str, Any]:
    settings = Settings(_env_file=None, **request["settings"])
    engine = connect(settings.url)
    try:
        context = JobContext(settings, UnitOfWork(engine), OpeningRule())
        return mine_domain(
            context,
            request["domain"],
            min_confidence=request["min_confidence"],
            limit=request["limit"],
            by=Actor(**request["by"]),
            patience_seconds=0.0,
        )
    finally:
        engine.dispose()


def _end_with_parent() -> None:
    """The pipe ends when the service closes it or dies: nobody waits for the answer any more."""
    # Not through the buffer, whose lock the interpreter wants when it ends.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
