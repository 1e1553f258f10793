"""Keep answered questions on the disk while the database cannot take them: framed, checksummed, bounded, in order.

A folder for each process, held by a lock that ends with it, with numbered segments of frames. Whoever gets the lock of
a dead process's folder hands its questions on.
"""

import fcntl
import logging
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from app.errors import SpoolFull
from app.intent.questions import AskedQuestion
from app.serving.frames import HEADER, decoded, encoded, framed, scan

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 8 * 1024 * 1024
# Request ids whose first answer is found again while it waits: about 20 MB at most.
MOST_KNOWN = 100_000
TRIAL_BYTES = 64 * 1024
LOCK = "lock"
SUFFIX = ".frames"
DAMAGED = ".damaged"

Key = tuple[int, str]


class Pile:
    """The folder of one process, whose lock we hold: appended to at one end, handed on from the other."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        # One thread appends, another hands on; what it has loaded is its own.
        self._turn = threading.Lock()
        self.rows = 0
        self.torn = 0
        self._lock_file = lock
        self._segments = sorted(folder.glob(f"*{SUFFIX}"))
        self._next = int(self._segments[-1].stem) + 1 if self._segments else 1
        self._open: int | None = None
        self._open_size = 0
        self._head: list[AskedQuestion] = []
        self._head_loaded = False
        self._head_damaged = False
        for segment in self._segments:
            self.rows += self._counted(segment)

    def append(self, payloads: Sequence[bytes]) -> list[tuple[Path, int, int]]:
        """Write these and see that they are on the disk; where each lies: segment, offset, length.

        Raises:
            OSError: the disk does not take them. Nothing of them counts.
        """
        with self._turn:
            return self._append(payloads)

    def _append(self, payloads: Sequence[bytes]) -> list[tuple[Path, int, int]]:
        segment = self._opened()
        assert self._open is not None
        before, places, parts = self._open_size, [], []
        at = before
        for payload in payloads:
            frame = framed(payload)
            parts.append(frame)
            at += len(frame)
            places.append((segment, at - len(payload), len(payload)))
        try:
            _write_all(self._open, b"".join(parts))
            os.fdatasync(self._open)
        except OSError:
            # What half of it is on the disk must not stand before later frames; and of a file that could not be
            # flushed nobody knows what it holds.
            with suppress(OSError):
                os.ftruncate(self._open, before)
            self._close_segment()
            raise
        self._open_size = at
        self.rows += len(payloads)
        if at >= SEGMENT_BYTES:
            self._close_segment()
        return places

    def peek(self, most: int) -> list[AskedQuestion]:
        """The oldest that wait, in order; they stay until they are dropped."""
        while not self._head and self._segments:
            if self._head_loaded:
                self._remove_head()
            else:
                self._load_head()
        return self._head[:most]

    def drop(self, count: int) -> None:
        """Let go of the oldest so many: what holds them now is committed."""
        del self._head[:count]
        with self._turn:
            self.rows -= count
        if not self._head and self._head_loaded:
            self._remove_head()

    def named(self) -> Iterator[tuple[Key, tuple[Path, int, int]]]:
        """The request ids that wait, and where each lies, the oldest first."""
        for segment in self._segments:
            data = segment.read_bytes()
            for at, length in scan(data).frames:
                with suppress(ValueError, TypeError, KeyError, AttributeError):
                    question = decoded(data[at : at + length])
                    if question.request_id is not None:
                        yield (question.domain_id, question.request_id), (segment, at, length)

    def end(self) -> None:
        """Give the lock back; take the folder away if nothing waits in it."""
        self._close_segment()
        if not self.rows and not list(self.folder.glob(f"*{DAMAGED}")):
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock_file)

    def _counted(self, segment: Path) -> int:
        data = segment.read_bytes()
        found = scan(data)
        if found.whole < len(data):
            self.torn += 1
            logger.warning("the last frame of a spool was torn and is cut: nobody was told that it is logged")
            os.truncate(segment, found.whole)
        return len(found.frames)

    def _opened(self) -> Path:
        if self._open is None:
            path = self.folder / f"{self._next:08d}{SUFFIX}"
            self._open = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._next += 1
            self._open_size = 0
            self._segments.append(path)
            _sync_folder(self.folder)
        return self._segments[-1]

    def _close_segment(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _load_head(self) -> None:
        with self._turn:
            path = self._segments[0]
            # It is read to its end: what comes now goes into another one.
            if len(self._segments) == 1:
                self._close_segment()
        data = path.read_bytes()
        found = scan(data)
        unread = 0
        for at, length in found.frames:
            try:
                self._head.append(decoded(data[at : at + length]))
            except (ValueError, TypeError, KeyError, AttributeError):
                # Whole, and yet no question: of another release, say. It must not stop the others.
                unread += 1
        with self._turn:
            self.rows -= unread
        damaged = found.damaged + unread
        if damaged:
            logger.error("a spool is damaged in %d places; what could not be read is kept beside it", damaged)
        self._head_damaged = bool(damaged)
        self._head_loaded = True

    def _remove_head(self) -> None:
        with self._turn:
            path = self._segments.pop(0)
        if self._head_damaged:
            path.rename(path.with_suffix(DAMAGED))
        else:
            path.unlink(missing_ok=True)
        _sync_folder(self.folder)
        self._head_loaded = self._head_damaged = False


class Spool:
    """All that waits on this machine: this process's own pile, and those that it took over from dead ones.

    One thread appends and finds, another one peeks, drops and adopts.
    """

    def __init__(self, root: Path, *, max_bytes: int, max_rows: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, tuple[Path, int, int]] = OrderedDict()
        self._torn_before = 0
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._own = _made(root)
        self._adopted: list[Pile] = []

    @property
    def rows(self) -> int:
        """How many questions wait here, adopted ones too."""
        return sum(pile.rows for pile in (self._own, *self._adopted))

    @property
    def bytes(self) -> int:
        """How much of the disk all spools of this machine take."""
        return size_of(self._root)

    @property
    def torn(self) -> int:
        """How many torn last frames were cut."""
        return self._torn_before + sum(pile.torn for pile in (self._own, *self._adopted))

    @property
    def is_full(self) -> bool:
        """Whether the next question would be refused."""
        return self.rows >= self._max_rows or self.bytes >= self._max_bytes

    def append(self, questions: Sequence[AskedQuestion]) -> None:
        """Keep these; when it returns they survive the process and the machine.

        Raises:
            SpoolFull: there is no room, by the bounds or on the disk. None of them is kept.
        """
        payloads = [encoded(question) for question in questions]
        size = sum(map(len, payloads)) + HEADER.size * len(payloads)
        if self.rows + len(payloads) > self._max_rows or self.bytes + size > self._max_bytes:
            raise SpoolFull("the database does not answer, and the spool is full")
        try:
            places = self._own.append(payloads)
        except OSError as error:
            logger.error("the spool cannot be written: %s", error.strerror)
            raise SpoolFull("the database does not answer, and the spool's disk takes nothing") from error
        for question, place in zip(questions, places, strict=True):
            if question.request_id is not None:
                self._know((question.domain_id, question.request_id), place)

    def _know(self, key: Key, place: tuple[Path, int, int]) -> None:
        with self._lock:
            # Of two under one id the first is the answer.
            if key not in self._known or not self._known[key][0].exists():
                self._known[key] = place
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)

    def find(self, key: Key) -> AskedQuestion | None:
        """What this process spooled under this domain and request id, while it waits."""
        with self._lock:
            place = self._known.get(key)
        if place is None:
            return None
        path, at, length = place
        try:
            with path.open("rb") as file:
                file.seek(at)
                return decoded(file.read(length))
        except FileNotFoundError:
            # It has been handed on.
            with self._lock:
                self._known.pop(key, None)
            return None

    def peek(self, most: int) -> list[AskedQuestion]:
        """The oldest that wait, in the order in which they were answered; adopted ones come first."""
        for pile in (*self._adopted, self._own):
            if found := pile.peek(most):
                return found
        return []

    def drop(self, count: int) -> None:
        """Let go of what `peek` gave: it is committed. Whoever dies before this hands it on twice, which is no harm."""
        for pile in (*self._adopted, self._own):
            if pile.peek(1):
                pile.drop(count)
                break
        for pile in [pile for pile in self._adopted if not pile.rows]:
            self._torn_before += pile.torn
            self._adopted.remove(pile)
            pile.end()

    def adopt(self) -> int:
        """Take over what dead processes left; how many questions that is."""
        taken = []
        for pile in _orphans(self._root):
            if pile.rows:
                taken.append(pile)
            else:
                self._torn_before += pile.torn
                pile.end()
        for pile in taken:
            for key, place in pile.named():
                self._know(key, place)
        self._adopted += taken
        return sum(pile.rows for pile in taken)

    def has_room(self) -> bool:
        """Whether the disk takes something again, after it did not."""
        trial = self._own.folder / "trial"
        try:
            with trial.open("wb") as file:
                file.write(bytes(TRIAL_BYTES))
                file.flush()
                os.fdatasync(file.fileno())
        except OSError:
            return False
        finally:
            with suppress(OSError):
                trial.unlink(missing_ok=True)
        return not self.is_full

    def close(self) -> None:
        """Give the locks back: what waits is handed on by another process, or by the next one."""
        for pile in (self._own, *self._adopted):
            pile.end()
        self._adopted = []


def size_of(root: Path) -> int:
    """The bytes that wait in all spools under this folder."""
    total = 0
    for path in _frames(root):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def waiting(root: Path) -> int:
    """How many questions wait in all spools under this folder, whoever holds them."""
    total = 0
    for path in _frames(root):
        with suppress(FileNotFoundError):
            total += len(scan(path.read_bytes()).frames)
    return total


def _frames(root: Path) -> Iterator[Path]:
    yield from root.glob(f"*/*{SUFFIX}")


def _made(root: Path) -> Pile:
    """A new folder of this process; it gets its name when its lock is held, so that nobody takes it for an orphan."""
    name = f"{time.time_ns():020d}-{os.getpid()}"
    hidden = root / f".{name}"
    hidden.mkdir(mode=0o700)
    lock = os.open(hidden / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    hidden.rename(root / name)
    _sync_folder(root)
    return Pile(root / name, lock)


def _orphans(root: Path) -> Iterator[Pile]:
    """The folders whose process is gone, the oldest first, each locked by us."""
    for path in sorted(root.glob("[0-9]*-*/" + LOCK)):
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it a moment ago may have emptied and removed it.
            same = os.path.samestat(os.fstat(lock), path.stat())
        except OSError:
            same = False
        if not same:
            os.close(lock)
            continue
        yield Pile(path.parent, lock)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
