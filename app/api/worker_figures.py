"""One scrape for all workers of a service: each leaves its figures in a file, and whoever is asked adds them up.

A worker that died counts on: its file stays, for a counter that fell would be read as one that began anew.
"""

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 1.0
SUFFIX: Final = ".figures"
# Gauges of which the workers' values add up, and those of which the lowest says most; of all others it is the highest.
ADDED: Final = frozenset(
    {
        "intentloop_queue_depth",
        "intentloop_spooled_questions",
        "intentloop_process_resident_memory_bytes",
        "intentloop_process_virtual_memory_bytes",
        "intentloop_process_open_fds",
    }
)
LOWEST: Final = frozenset(
    {
        "intentloop_serving_epoch",
        "intentloop_generative_ready",
        "intentloop_process_max_fds",
        "intentloop_process_start_time_seconds",
    }
)
_CUMULATIVE: Final = ("counter", "histogram")


class WorkerFigures:
    """The figures of this worker, and those that the others left."""

    def __init__(self, folder: Path, own: Iterable[Any], *, every_seconds: float = EVERY_SECONDS) -> None:
        """`own`: collectors of this process; `folder`: of this service, for its workers alone."""
        self._folder = folder
        self._own = tuple(own)
        self._file = folder / f"{os.getpid()}{SUFFIX}"
        self._every_seconds = every_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="figures-file", daemon=True)

    def start(self) -> None:
        """Leave the figures, again and again."""
        self._thread.start()

    def stop(self) -> None:
        """Leave them for the last time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def families(self) -> Iterator[Metric]:
        """The figures of all workers together."""
        added = _Sum()
        for family in self._collected():
            added.add(_as_json(family), alive=True)
        for file in sorted(self._folder.glob(f"*{SUFFIX}")):
            if file != self._file:
                alive = _is_alive(int(file.stem))
                for found in _read(file):
                    added.add(found, alive=alive)
        return added.families()

    def _collected(self) -> list[Metric]:
        return [family for collector in self._own for family in collector.collect()]

    def _run(self) -> None:
        while True:
            last = self._stopping.wait(self._every_seconds)
            try:
                self._leave()
            except Exception as error:  # The edge of the thread: a full disk costs figures, and no answer.
                logger.warning("the figures of this worker could not be left: %s", type(error).__name__)
            if last:
                return

    def _leave(self) -> None:
        made = self._file.with_suffix(".new")
        made.write_text(json.dumps([_as_json(family) for family in self._collected()]), encoding="utf-8")
        # Whole or not at all: another worker may read at any moment.
        made.replace(self._file)


class _Sum:
    """Families of metrics, the samples of several processes brought together."""

    def __init__(self) -> None:
        self._families: dict[str, dict[str, Any]] = {}
        self._samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, family: dict[str, Any], *, alive: bool) -> None:
        """Add what one process says; of a dead one only what it had counted."""
        name = family["name"]
        if not alive and family["type"] not in _CUMULATIVE:
            return
        self._families.setdefault(name, family)
        samples = self._samples.setdefault(name, {})
        for sample, labels, value in family["samples"]:
            key = (sample, tuple(sorted(labels.items())))
            if key not in samples:
                samples[key] = value
            elif family["type"] in _CUMULATIVE or name in ADDED:
                samples[key] += value
            else:
                samples[key] = min(samples[key], value) if name in LOWEST else max(samples[key], value)

    def families(self) -> Iterator[Metric]:
        """What all of them come to."""
        for name, family in self._families.items():
            made = Metric(name, family["documentation"], family["type"])
            made.samples = [Sample(key[0], dict(key[1]), value) for key, value in self._samples[name].items()]
            yield made


def _as_json(family: Metric) -> dict[str, Any]:
    return {
        "name": family.name,
        "documentation": family.documentation,
        "type": family.type,
        "samples": [[sample.name, dict(sample.labels), sample.value] for sample in family.samples],
    }


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
