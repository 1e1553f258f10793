"""Put an error into words that may be logged and stored: of the database's errors only the kind, never a text."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from app.artifacts.store import ArtifactUnavailable


def in_words(error: BaseException) -> str:
    """One sentence. A database repeats the values of a statement in its message, and they may be a question's text."""
    if is_of_database(error):
        kind = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        return f"the database refused: {type(kind).__name__}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def is_of_database(error: BaseException) -> bool:
    """Whether the message may hold values of rows."""
    return isinstance(error, SQLAlchemyError)


def may_pass(error: BaseException) -> bool:
    """Whether database or artifact store were away or too busy, so that the same work may succeed a little later."""
    return isinstance(error, OperationalError | InterfaceError | NoConnectionFree | ArtifactUnavailable)
