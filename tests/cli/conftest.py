"""The command line in this process: what it prints, and the status it ends with."""

import json
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import main
from app.cli import opening


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def sentences(self) -> list[str]:
        """The lines on standard error."""
        return [line for line in self.err.splitlines() if line.strip()]


Run = Callable[..., Said]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with nothing in it, and no setting of this machine."""
    import os

    for name in os.environ:
        if name.upper().startswith("INTENTLOOP_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTENTLOOP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    # The console took its width when it was first imported, by whichever test came first.
    monkeypatch.setattr(opening.console, "_width", 200)
    return tmp_path


@pytest.fixture
def run(empty_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`intentloop …`; every one must end without a traceback."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    level = logging.getLogger().level
    hooks = sys.excepthook, threading.excepthook

    def command(*arguments: object, **settings: object) -> Said:
        for name, value in settings.items():
            monkeypatch.setenv(f"INTENTLOOP_{name}", str(value))
        monkeypatch.setattr(sys, "argv", ["intentloop", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        # Some build machines ask for colours even where nobody looks.
        said = Said(status, *(re.sub(r"\x1b\[[0-9;]*m", "", stream) for stream in capsys.readouterr()))
        for name in settings:
            monkeypatch.delenv(f"INTENTLOOP_{name}")
        assert "Traceback" not in said.out + said.err
        return said

    yield command
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger().setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks


@pytest.fixture
def migrated(run: Run, empty_folder: Path) -> Run:
    """The command line on a fresh database."""
    assert run("migrate").status == 0
    return run
