"""Structured logs: each line of every logger of the process, masked and bounded, with the ids of its request.

Code logs through `logging`, as libraries do; fields go along as `extra={"fields": {…}}`. What a line says is masked
here, by construction and not by care: whatever slips into a message leaves this process without personal data in it.
Of errors only kinds and places are told: their messages may quote a question, and a database's quote the row.
"""

import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from app.intent.masking import mask
from app.intent.text import normalise

Format = Literal["console", "json"]

LONGEST_VALUE: Final = 2_000
MOST_LINES: Final = 80
MOST_ITEMS: Final = 50
DEEPEST: Final = 4
_CHATTY: Final = ("apscheduler", "alembic", "httpx", "httpcore", "uvicorn.access")

logger = logging.getLogger(__name__)


def configure(form: Format, level: int) -> None:
    """Send what every logger says to standard error; a process that logs somewhere already is left alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level, handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    catch_all()


def catch_all() -> None:
    """Let errors that nobody caught be told like all others: Python would print their messages."""
    sys.excepthook = _uncaught
    threading.excepthook = lambda given: _uncaught(given.exc_type, given.exc_value, given.exc_traceback)


def formatter(form: Format) -> logging.Formatter:
    """What turns a record into a line."""
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), event_key="event")
    )
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            _with_fields,
            structlog.contextvars.merge_contextvars,
            _without_messages,
            _masked,
            # After the mask: none of these comes from outside.
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderer,
        ],
    )


def trace(error: BaseException) -> str:
    """The kinds of an error and its causes, the first cause last, and the lines of code passed; no message of any."""
    kinds: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(kinds) < 5:
        kinds.append(type(cause).__name__)
        cause = cause.__cause__ or getattr(cause, "orig", None)
    return f"{' from '.join(kinds)}\n{''.join(traceback.format_tb(error.__traceback__))}"


def _with_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {**event, **getattr(event["_record"], "fields", {})}


def _without_messages(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        event["exception"] = trace(error)
    return event


def _masked(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    own = {name: event[name] for name in ("_record", "_from_structlog") if name in event}
    return {**{masked(name): masked(value) for name, value in event.items() if name not in own}, **own}


def masked(value: Any, depth: int = DEEPEST) -> Any:
    """The same value without personal data, and no longer than a line should be."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        # A number may be somebody's: it stays one only if it reads like none.
        written = str(value)
        return value if len(written) < 8 or masked(written) == written else masked(written)
    if isinstance(value, Mapping) and depth:
        return {masked(str(key)): masked(item, depth - 1) for key, item in list(value.items())[:MOST_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return [masked(item, depth - 1) for item in list(value)[:MOST_ITEMS]]
    lines = (value if isinstance(value, str) else str(value))[: LONGEST_VALUE * 10].splitlines()
    # Cut after masking: half a number would not be known for one.
    return "\n".join(mask(normalise_line(line))[:LONGEST_VALUE] for line in lines[:MOST_LINES])


def normalise_line(line: str) -> str:
    """Normalised as texts are before they are masked, but for the white space that indents it."""
    text = normalise(line)
    return line[: len(line) - len(line.lstrip(" "))] + text


def _uncaught(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    if error is None or issubclass(kind, SystemExit):
        return
    if issubclass(kind, KeyboardInterrupt):
        sys.exit(130)
    logger.critical("unexpected", exc_info=error)
