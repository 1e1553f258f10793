"""Accept connections in several processes from one socket, so that each holds about as many as the others.

Whoever is awake first would take all that wait, and keep-alive would leave it with them: of two workers one answered
everything. So a process that holds more than the others leaves what comes to them for a moment.
"""

import asyncio
import errno
import logging
import mmap
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

# So many more than another one it may hold, and an eighth of what that one has: an exact balance would cost waiting.
SLACK: Final = 2
LEAVE_SECONDS: Final = 0.002
# Whoever left them and finds them still there takes so many: the others are busy, or gone.
TAKEN_AFTER_LEAVING: Final = 4
NO_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
NO_ROOM_SECONDS: Final = 1.0
_BYTES: Final = 4


class Shares:
    """How many connections each process holds: numbers in a file that all of them map."""

    def __init__(self, file: Path, *, place: int) -> None:
        """`place`: of this process, counted from 0."""
        with file.open("r+b") as opened:
            self._numbers = mmap.mmap(opened.fileno(), 0)
        self._place = place
        self.tell(0)

    @staticmethod
    def make(file: Path, places: int) -> None:
        """A file for so many processes that hold nothing yet."""
        file.write_bytes(bytes(_BYTES * places))

    def tell(self, count: int) -> None:
        """This process holds so many."""
        at = self._place * _BYTES
        self._numbers[at : at + _BYTES] = count.to_bytes(_BYTES, "little")

    def least_of_others(self) -> int | None:
        """What the one with the fewest holds; None where there is no other."""
        counts = [
            int.from_bytes(self._numbers[at : at + _BYTES], "little")
            for at in range(0, len(self._numbers), _BYTES)
            if at != self._place * _BYTES
        ]
        return min(counts, default=None)


class Acceptor:
    """Stands in for the server of the loop: accepts one connection after the other, while it is this process's turn."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        shares: Shares,
        held: Callable[[], int],
    ) -> None:
        """`held`: how many connections this process has open."""
        listener.setblocking(False)
        self._listener = listener
        self._protocol = protocol
        self._shares = shares
        self._held = held
        self._opening: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._closed = False
        self._loop.add_reader(listener, self._ready)

    def close(self) -> None:
        """Accept what has come by now, and let go of the socket: what waits in it at its end is reset."""
        if self._closed:
            return
        while self._accept():
            pass
        self._closed = True
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()
        self._listener.close()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""

    def tell(self) -> int:
        """Let the others know how many connections this process holds."""
        count = self._held() + len(self._opening)
        self._shares.tell(count)
        return count

    def _ready(self) -> None:
        least = self._shares.least_of_others()
        if least is not None and self.tell() > least + least // 8 + SLACK:
            self._pause(LEAVE_SECONDS, self._after_leaving)
            return
        self._accept()

    def _after_leaving(self) -> None:
        for _ in range(TAKEN_AFTER_LEAVING):
            if not self._accept():
                return

    def _accept(self) -> bool:
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another one was there first, or the caller has left.
            return False
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            logger.error("no connection can be accepted for now: %s", error.strerror)
            self._pause(NO_ROOM_SECONDS, lambda: None)
            return False
        accepted.setblocking(False)
        opening = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, accepted))
        self._opening.add(opening)
        opening.add_done_callback(self._opened)
        self.tell()
        return True

    def _opened(self, opening: "asyncio.Task[object]") -> None:
        self._opening.discard(opening)
        if not opening.cancelled() and (error := opening.exception()) is not None:
            logger.info("a connection ended before it began: %s", type(error).__name__)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)

        def go_on() -> None:
            if not self._closed:
                then()
                self._loop.add_reader(self._listener, self._ready)

        self._later = self._loop.call_later(seconds, go_on)
