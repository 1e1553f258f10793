"""Put a file in its place only once all of it is written: who reads it sees the old one or the new one."""

import gzip
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, gzipped when its name ends in `.gz`. When the block raises, what stood there stays.

    Raises:
        OSError: the folder is not there, cannot be written to, or is full.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        # A device or a pipe, as /dev/null: there is nothing to put in its place.
        with path.open("wb") as device:
            yield device
        return
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(number, "wb") as raw:
            if path.suffix.lower() == ".gz":
                # Without name and time in it, the same content is the same file.
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        # mkstemp lets only the owner read; a new file gets what the user's mask allows, an old one keeps its own.
        partial.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_mask())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _mask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
