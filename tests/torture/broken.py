"""`intentloop`, broken on purpose: it answers before the commit. A torture that does not notice is worth nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from app.__main__ import main
from app.serving.log import LogWriter

LATE_SECONDS = 0.3


def answer_before_the_commit() -> None:
    """Give the questions back as if they were rows, and write them a moment later."""
    submit = LogWriter.submit
    late: set[asyncio.Task[Any]] = set()

    async def submit_later(self: LogWriter[Any], items: Sequence[Any]) -> None:
        await asyncio.sleep(LATE_SECONDS)
        await submit(self, items)

    async def answered(self: LogWriter[Any], items: Sequence[Any]) -> list[Any]:
        task = asyncio.create_task(submit_later(self, items))
        late.add(task)
        task.add_done_callback(late.discard)
        return list(items)

    LogWriter.submit = answered  # type: ignore[assignment]


if __name__ == "__main__":
    answer_before_the_commit()
    sys.exit(main())
