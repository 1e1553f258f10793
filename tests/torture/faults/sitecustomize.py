"""Strike a process at one named step of its work; put before its path, Python runs this by itself when it starts.

A step is a change of files (before it), a `fsync`, a process started, and a commit (before it, and after it), each on
the main thread alone: what beats beside the work is not the same in every run. `FAULT_LOG` names the file that each
step is written to, `FAULT_AT` the step at which `FAULT_KIND` happens: `kill`, `term`, `full` (no space left) or
`error` (an input/output error, or a database that broke off).
"""

import errno
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

_FILE_EVENTS = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.utime", "shutil.rmtree")
_reached: Counter[str] = Counter()
_role = "trainer" if "trainer" in sys.orig_argv else "job"
_data = os.environ.get("FAULT_DATA", "")
_at, _kind, _log = (os.environ.get(f"FAULT_{name}", "") for name in ("AT", "KIND", "LOG"))


def _reach(name: str, *, database: bool) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    _reached[name] += 1
    step = f"{_role}: {name} #{_reached[name]}"
    with Path(_log).open("a", encoding="utf-8") as file:
        file.write(step + "\n")
    if step == _at:
        _strike(database=database)


def _strike(*, database: bool) -> None:
    if _kind in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if _kind == "kill" else signal.SIGTERM)
        return
    if database:
        from sqlalchemy.exc import OperationalError

        said = "disk full" if _kind == "full" else "server closed the connection unexpectedly"
        raise OperationalError("COMMIT", None, Exception(said))
    number = errno.ENOSPC if _kind == "full" else errno.EIO
    raise OSError(number, os.strerror(number))


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen":
        _reach("start a process", database=False)
    elif event in _FILE_EVENTS or (event == "open" and _writes(arguments)):
        path = str(arguments[0])
        # What Python keeps for itself (its caches, the dictionary of words) is no step of the work.
        if path.startswith(_data) and path != _log:
            _reach(f"{event} {_short(path)}", database=False)


def _writes(arguments: tuple[object, ...]) -> bool:
    _, mode, flags = arguments
    by_flags = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return any(letter in str(mode or "") for letter in "wax+") or (mode is None and by_flags)


def _short(path: str) -> str:
    """The last part of a path, without what differs from run to run."""
    name = Path(path).name
    return "a folder of hexadecimal digits" if len(name) > 40 else name.split("-")[0]


def _watch_commits() -> None:
    from sqlalchemy import Engine, event
    from sqlalchemy.orm import Session

    from app.db.session import UnitOfWork

    running = threading.local()
    call = UnitOfWork.__call__

    def named(work, service, *args, **kwargs):  # type: ignore[no-untyped-def]
        running.service = getattr(service, "__name__", "service")
        try:
            return call(work, service, *args, **kwargs)
        finally:
            running.service = None

    UnitOfWork.__call__ = named  # type: ignore[method-assign]

    @event.listens_for(Engine, "commit")
    def _before(_connection: object) -> None:
        if getattr(running, "service", None):
            _reach(f"before the commit of {running.service}", database=True)

    @event.listens_for(Session, "after_commit")
    def _after(_session: object) -> None:
        if getattr(running, "service", None):
            _reach(f"after the commit of {running.service}", database=True)


def _watch_fsync() -> None:
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        _reach("fsync", database=False)
        fsync(descriptor)

    os.fsync = watched


if _log:
    _watch_fsync()
    if _role == "job":
        _watch_commits()
    sys.addaudithook(_hear)
