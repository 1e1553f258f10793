"""What this machine served last, as files: a service that starts while the database is away serves it again."""

import json
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.intent.releases import DomainState, Release
from app.intent.rules import rule_from_json

logger = logging.getLogger(__name__)

FORMAT = 1
RELEASE = "release-"


def remember_release(folder: Path, release: Release, *, anew: bool = False) -> None:
    """Keep what a domain serves; unless `anew`, an older epoch never replaces a newer one of the same domain.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / f"{RELEASE}{release.state.domain_id}.json"
    known = None if anew else read_whole(path)
    if known is not None and _epoch(known) > release.state.epoch:
        return
    values = {
        "state": asdict(release.state),
        "version_id": release.version_id,
        "version": release.version,
        "artifact_digest": release.artifact_digest,
        "threshold": release.threshold,
        "paths": {str(label_id): path for label_id, path in release.paths.items()},
        "rule_set_revision": release.rule_set_revision,
        "rules": [rule.as_json() for rule in release.rules],
        "fusion": release.fusion,
        "generative_version": release.generative_version,
        "generative_digest": release.generative_digest,
    }
    write_whole(path, values)


def remembered_releases(folder: Path) -> list[Release]:
    """What each domain served last; a file that cannot be read is left out and named."""
    found = []
    for path, values in _documents(folder):
        try:
            found.append(_release(values))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            logger.warning("%s does not hold what was served last: %s", path.name, type(error).__name__)
    return sorted(found, key=lambda release: release.state.domain_id)


def remembered_digests(folder: Path) -> Collection[str]:
    """The artifacts that were served last."""
    named = ("artifact_digest", "generative_digest")
    return {str(values[name]) for _, values in _documents(folder) for name in named if values.get(name)}


def write_whole(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a file in one step, flushed to disk, for nobody else to read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Of several processes and threads each its own.
    made = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    content = json.dumps({"format": FORMAT, **values}, ensure_ascii=False, allow_nan=False)
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_whole(path: Path) -> dict[str, Any] | None:
    """What `write_whole` wrote; None where there is nothing, or nothing of this format."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read: %s", path.name, type(error).__name__)
        return None
    return values if isinstance(values, dict) and values.get("format") == FORMAT else None


def _documents(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob(f"{RELEASE}*.json")):
        if (values := read_whole(path)) is not None:
            yield path, values


def _epoch(values: Mapping[str, Any]) -> int:
    try:
        return int(values["state"]["epoch"])
    except (KeyError, TypeError, ValueError):
        return -1


def _release(values: Mapping[str, Any]) -> Release:
    return Release(
        DomainState(**values["state"]),
        values["version_id"],
        values["version"],
        values["artifact_digest"],
        float(values["threshold"]),
        {int(label_id): str(path) for label_id, path in values["paths"].items()},
        values["rule_set_revision"],
        tuple(rule_from_json(rule) for rule in values["rules"]),
        values["fusion"],
        # Not there in what a release before the generative tier remembered.
        values.get("generative_version"),
        values.get("generative_digest"),
    )
