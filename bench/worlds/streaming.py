"""Run `select_questions` in a process of its own and say how long it took, and how much memory beyond its start.

`python -m bench.worlds.streaming SMALL TARGET ARTIFACTS`: the URL of a small database, on which everything is loaded
first, that of the one that is measured, and the folder of the artifact that both serve.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from app.db.session import UnitOfWork, connect
from app.services.batches import OpeningRule
from app.settings import Settings
from jobs.context import JobContext
from jobs.select_questions import select_questions

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(small: str, target: str, artifacts: str) -> None:
    """Print one JSON object."""
    _select(small, artifacts)
    base = _memory_mib("VmRSS")
    # From here on the peak is counted anew.
    _CLEAR.write_text("5", encoding="ascii")
    start = time.perf_counter()
    detail = _select(target, artifacts)
    took = time.perf_counter() - start
    found = {"scored": detail["scored"], "gold_drawn": detail["gold_drawn"], "seconds": took}
    print(json.dumps(found | {"grown_mib": _memory_mib("VmHWM") - base, "base_mib": base}))


def _select(url: str, artifacts: str) -> dict[str, Any]:
    settings = Settings(_env_file=None, artifacts_dir=Path(artifacts), database_url=url)
    engine = connect(url)
    try:
        return select_questions(JobContext(settings, UnitOfWork(engine), OpeningRule()))
    finally:
        engine.dispose()


def _memory_mib(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
