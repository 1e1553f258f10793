"""The generative process is started, watched, started again with patience, and never outlives who started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.scorers import generative_process
from app.serving.generative_keeper import SOCKET, Keeper, State, read_state

PATIENCE_SECONDS = 60.0


def wait_for(probe: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := probe()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s in vain"
        time.sleep(0.02)
    return found


def command(control: Path) -> Callable[[Path], Sequence[str]]:
    return lambda socket: [
        *(sys.executable, "-m", "tests.serving.generative_process"),
        *("--socket", str(socket), "--control", str(control)),
    ]


@contextmanager
def kept(made: Callable[[Path], Sequence[str]], **changes: Any) -> Iterator[Keeper]:
    keeper = Keeper(None, threads=1, waiting=4, command=made, **({"first_pause_seconds": 0.05} | changes))
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.stop()


def ready(keeper: Keeper, *, but: int | None = None) -> int:
    """The pid of the process that answers, once one does that is another than `but`."""

    def look() -> int | None:
        state = read_state(keeper.folder)
        return state.pid if state.status == "ready" and state.pid != but else None

    pid: int = wait_for(look)
    return pid


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_process_is_started_and_ends_with_its_keeper(tmp_path: Path) -> None:
    with kept(command(tmp_path / "control")) as keeper:
        assert read_state(keeper.folder) == State("starting") or read_state(keeper.folder).status == "ready"
        pid = ready(keeper)
        assert not is_gone(pid)
        assert (keeper.folder / SOCKET).is_socket()
        assert (keeper.folder.stat().st_mode & 0o777) == 0o700
    assert is_gone(pid)
    assert not keeper.folder.exists()


def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with kept(command(tmp_path / "control")) as keeper:
        first = ready(keeper)
        os.kill(first, signal.SIGKILL)
        second = ready(keeper, but=first)
        assert second != first
        assert is_gone(first)


def test_a_process_that_hangs_is_ended_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative_process, "END_AFTER_SECONDS", 0.1)
    with kept(command(tmp_path / "control"), silent_seconds=1.0) as keeper:
        first = ready(keeper)
        os.kill(first, signal.SIGSTOP)
        assert ready(keeper, but=first) != first
        assert is_gone(first)


def test_what_cannot_start_is_broken_in_its_own_words_and_tried_ever_later(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    script = (
        f"import sys; open({str(starts)!r}, 'a').write('x'); "
        "print('it needs torch, which is not installed', file=sys.stderr); sys.exit(2)"
    )
    with kept(lambda _: [sys.executable, "-c", script]) as keeper:
        state = wait_for(lambda: (found := read_state(keeper.folder)).status == "broken" and found)
        assert state.reason == "the generative process ended with status 2: it needs torch, which is not installed"
        wait_for(lambda: starts.exists() and len(starts.read_text()) >= 3)
        assert read_state(keeper.folder).status == "broken"
        # 0.05 s after the first, then twice as long each time.
        assert keeper._failures >= 2


def test_a_command_that_is_not_there_is_broken_too(tmp_path: Path) -> None:
    with kept(lambda _: [str(tmp_path / "nothing")]) as keeper:
        state = wait_for(lambda: (found := read_state(keeper.folder)).status == "broken" and found)
        # In the words of Python, or of what ties it to us.
        assert "could not be started" in state.reason or "No such file" in state.reason


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of another process are Linux's")
def test_the_process_may_take_as_much_memory_as_the_setting_says(tmp_path: Path) -> None:
    import resource

    with kept(command(tmp_path / "control"), memory_mb=4096) as keeper:
        assert resource.prlimit(ready(keeper), resource.RLIMIT_AS) == (4096 * 2**20, 4096 * 2**20)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's own tie is Linux's")
def test_the_process_ends_when_the_service_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom app.serving.generative_keeper import Keeper, read_state\n"
        "from tests.serving.test_generative_keeper import command, ready\n"
        f"keeper = Keeper(None, threads=1, waiting=4, command=command(Path({str(tmp_path / 'control')!r})))\n"
        "keeper.start()\nprint(ready(keeper), keeper.folder, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        pid, _, folder = service.stdout.readline().strip().partition(" ")
        service.kill()
    wait_for(lambda: is_gone(int(pid)))
    # Whoever still reads the folder of a service that is gone is not told that all is well for ever: it is removed by
    # nobody, but nobody else knows it.
    for left in sorted(Path(folder).iterdir()):
        left.unlink()
    Path(folder).rmdir()
    assert read_state(Path(folder)).status == "broken"
