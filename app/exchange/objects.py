"""Read a file of JSON objects, in lines or in one array, one at a time."""

from collections.abc import Iterator
from pathlib import Path

from app.exchange.pieces import MAX_FILE_BYTES, BadRow, Piece, Source, array_elements, lines


def read_objects(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> Iterator[Piece | BadRow]:
    """Open the file and return its objects, not parsed yet, in order; blank lines are none.

    Raises:
        UnreadableFile: the file cannot be opened, is empty or is not UTF-8; later, while it is read: the gzip data is
            damaged or unpacks to too much.
    """
    source = Source(path, max_bytes)
    return _read(source)


def _read(source: Source) -> Iterator[Piece | BadRow]:
    try:
        pieces = array_elements(source) if source.head.startswith(b"[") else lines(source)
        yield from (piece for piece in pieces if isinstance(piece, BadRow) or piece.text.strip())
    finally:
        source.close()
