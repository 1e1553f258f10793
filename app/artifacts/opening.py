"""Open the artifact store that the settings name."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

from app.artifacts.cache import ArtifactCache
from app.artifacts.folder import FolderStore
from app.artifacts.remote import RemoteStore
from app.artifacts.store import ArtifactStore
from app.errors import SetupError
from app.remembered import remembered_digests
from app.settings import Settings

# Reached through obstore, which reads addresses and credentials from the environment variables of each kind.
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
CONNECT_SECONDS = 5
# Without a byte for so long, a transfer is given up; a large artifact may take longer as a whole.
SILENT_SECONDS = 20
TRIES = 2
RETRY_SECONDS = 30


def open_store(settings: Settings, *, kept: Callable[[], Collection[str]] = tuple) -> ArtifactStore:
    """The store of an installation; nothing is asked of it yet.

    Args:
        kept: digests that this process keeps loaded: the cache never lets them go, nor what was served last.

    Raises:
        SetupError: the URL names no store, or the package for it is not installed.
    """
    url = settings.artifacts_url
    if url is None or settings.artifacts_are_in_a_folder:
        return FolderStore(settings.artifacts)
    protocol, _, rest = url.partition("://")
    filesystem = _filesystem(protocol)
    cache = ArtifactCache(
        settings.artifacts,
        max_bytes=settings.artifact_cache_bytes,
        needed=lambda: {*remembered_digests(settings.last_known), *kept()},
    )
    return RemoteStore(filesystem, rest, url=url, cache=cache)


def _filesystem(protocol: str) -> Any:
    try:
        if protocol in OBJECT_STORES:
            from obstore.fsspec import FsspecStore

            # Its overloads want the protocol as a literal.
            made: Any = FsspecStore
            return made(
                protocol,
                client_options={
                    # What the store's own variable says is not heard beside these options.
                    "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),
                    "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                    "read_timeout": timedelta(seconds=SILENT_SECONDS),
                },
                retry_config={"max_retries": TRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
            )
        import fsspec

        return fsspec.filesystem(protocol)
    except ImportError as error:
        raise SetupError(
            f"artifacts at {protocol}://… need a package that is not installed: "
            "pip install 'intentloop[object-store]', or fsspec's own for this kind of store"
        ) from error
    except ValueError as error:
        raise SetupError(f"INTENTLOOP_ARTIFACTS_URL: there is no kind of store {protocol!r}") from error
