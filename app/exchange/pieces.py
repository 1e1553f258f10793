"""Cut a file, compressed or not, into lines or array elements without ever holding more than one of them."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAX_PIECE_BYTES: Final = 1 << 20
"""Longest line or array element that is read; a longer one is one bad row."""

MAX_FILE_BYTES: Final = 1 << 30
"""Most bytes read from one file, after decompression: a small archive can unpack to anything."""

_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_TELLING_LINES = 3
_MARK = re.compile(rb'\\.|["{}\[\],\n]', re.DOTALL)


class UnreadableFile(ValueError):
    """The file as a whole cannot be read; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out. `line`: where it begins, from 1. `reason`: never holds what the row says.

    `ignored`: it is in order and holds no label, like a task that nobody answered yet.
    """

    line: int
    reason: str
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """One line or one array element. `line`: where it begins, from 1."""

    line: int
    text: str


class Source:
    """The bytes of a file behind its byte order mark, decompressed and counted. The caller closes it."""

    def __init__(self, path: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Open the file.

        Raises:
            UnreadableFile: it cannot be opened, is empty, is damaged or is UTF-16 or UTF-32.
        """
        self.name = path.name or str(path)
        self._left = max_bytes
        self._max_bytes = max_bytes
        try:
            raw: Any = path.open("rb")
        except (OSError, ValueError) as error:
            raise UnreadableFile(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        self._raw = self._file = raw  # a GzipFile has the same methods, but no type in common that has `peek`
        try:
            if self.peek().startswith(b"\x1f\x8b"):
                self._file = gzip.GzipFile(fileobj=raw)
            self.head = self._begin()
        except UnreadableFile:
            self.close()
            raise

    def _begin(self) -> bytes:
        first = self.peek()
        if not first.removeprefix(_BOM).strip():
            raise UnreadableFile(f"{self.name} is empty")
        if first.startswith(_OTHER_UNICODE):
            raise UnreadableFile(f"{self.name} is UTF-16 or UTF-32; save it as UTF-8")
        if first.startswith(_BOM):
            self.read(len(_BOM))
        elif _in_another_encoding(first):
            raise UnreadableFile(f"{self.name} is not UTF-8 but looks like GBK or the like; save it as UTF-8")
        return first.removeprefix(_BOM).lstrip()

    def allow_only(self, max_bytes: int) -> None:
        """Hold what is still to be read to this bound too."""
        if max_bytes < self._left:
            self._left = self._max_bytes = max_bytes

    def peek(self) -> bytes:
        """The next bytes, some kilobytes of them, without taking them."""
        return self._guarded(lambda: self._file.peek(4096))

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        return self._counted(self._guarded(lambda: self._file.read(size)))

    def readline(self, size: int) -> bytes:
        """The rest of this line, or its next `size` bytes; none at the end."""
        return self._counted(self._guarded(lambda: self._file.readline(size)))

    def close(self) -> None:
        """Close the file and what it was unpacked from."""
        with suppress(OSError, EOFError, zlib.error):
            self._file.close()
        self._raw.close()

    def _guarded(self, call: Callable[[], bytes]) -> bytes:
        try:
            return call()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UnreadableFile(f"{self.name} is not a whole gzip file") from error
        except OSError as error:
            raise UnreadableFile(f"{self.name} cannot be read: {error.strerror or error}") from error

    def _counted(self, taken: bytes) -> bytes:
        self._left -= len(taken)
        if self._left < 0:
            raise UnreadableFile(f"{self.name} holds more than {self._max_bytes} bytes once unpacked")
        return taken


def lines(source: Source) -> Iterator[Piece | BadRow]:
    """Every line, without its line break."""
    number = 0
    while raw := source.readline(MAX_PIECE_BYTES + 1):
        number += 1
        if len(raw) > MAX_PIECE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = source.readline(_CHUNK)
            yield BadRow(number, f"longer than {MAX_PIECE_BYTES} bytes")
        else:
            yield _decoded(number, raw.removesuffix(b"\n").removesuffix(b"\r"))


def array_elements(source: Source) -> Iterator[Piece | BadRow]:
    """Every element of the one JSON array, cut by counting brackets: a broken element costs only itself."""
    cutter = _ArrayCutter()
    while chunk := source.read(_CHUNK):
        while (len(chunk) - len(chunk.rstrip(b"\\"))) % 2 and (more := source.read(1)):
            chunk += more  # an escape is never cut in two
        yield from cutter.feed(chunk)
    yield from cutter.finish()


class _ArrayCutter:
    """Where the reading is: how deep, whether in a string, and the bytes of the element so far."""

    def __init__(self) -> None:
        self.line = 1
        self.depth = 0
        self.in_string = False
        self.element = bytearray()
        self.too_long = False
        self.begins = 1
        self.ended = False

    def feed(self, chunk: bytes) -> Iterator[Piece | BadRow]:
        taken = 0
        for found in _MARK.finditer(chunk):
            mark = found.group()
            if mark == b"\n":
                self.line += 1
            elif mark == b'"':
                self.in_string = not self.in_string
            elif len(mark) > 1:
                self.line += mark.endswith(b"\n")
            elif not self.in_string and not self.ended:
                before, self.depth = self.depth, self.depth + (mark in b"{[") - (mark in b"}]")
                if before == 0:  # the bracket that opens the array
                    taken = found.end()
                elif before == 1 and mark in b",]}":
                    self._take(chunk[taken : found.start()])
                    taken = found.end()
                    yield from self._cut(last=mark != b",")
        if not self.ended:
            self._take(chunk[taken:])

    def finish(self) -> Iterator[BadRow]:
        """What to report when the file is over."""
        if not self.ended:
            yield BadRow(self.begins, "the array ends in the middle")

    def _take(self, part: bytes) -> None:
        if not self.element:
            part = part.lstrip()
            self.begins = self.line - part.count(b"\n")
        self.element += part
        if len(self.element) > MAX_PIECE_BYTES:
            self.too_long = True
            self.element = self.element[:1]

    def _cut(self, *, last: bool) -> Iterator[Piece | BadRow]:
        if self.too_long:
            yield BadRow(self.begins, f"longer than {MAX_PIECE_BYTES} bytes")
        elif self.element or not last:
            yield _decoded(self.begins, bytes(self.element))
        self.element.clear()
        self.too_long = False
        self.ended = last


def _in_another_encoding(first: bytes) -> bool:
    """Whether no line is UTF-8 of those that would show it; a few could be damage, which costs only their rows."""
    # The last line is cut, perhaps within a character.
    telling = [line for line in first.split(b"\n")[:-1] if not line.isascii()]
    return len(telling) >= _TELLING_LINES and all(isinstance(_decoded(0, line), BadRow) for line in telling)


def _decoded(line: int, raw: bytes) -> Piece | BadRow:
    try:
        return Piece(line, raw.decode("utf-8"))
    except UnicodeDecodeError:
        return BadRow(line, "not UTF-8")
