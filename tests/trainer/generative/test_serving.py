"""The socket's half of the generative process, with a judge that a test can hold still."""

import json
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.scorers.generative import GenerativeClient, GenerativeScorer
from app.scorers.generative_wire import MAX_LINE_BYTES, GenerativeUnavailable, RequestInvalid
from trainer.generative.serving import MOST_CONNECTIONS, Judge, Server

PATIENCE = 120.0
ARTIFACT = Path("/nowhere/artifact")


class HeldJudge:
    """Answers with label 1 twice as likely as label 2; waits while it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.asked: list[tuple[str, Sequence[int] | None]] = []

    def judge(self, text: str, candidates: Sequence[int] | None) -> tuple[Sequence[int], Sequence[float]]:
        self.asked.append((text, candidates))
        assert self.go.wait(PATIENCE)
        if text == "boom":
            raise IndexError(f"about {text}")
        if text == "no memory":
            raise MemoryError
        if candidates is not None and 9 in candidates:
            raise RequestInvalid("the artifact does not know the label 9")
        return [2, 1], [1 / 3, 2 / 3]


class Shelf:
    def __init__(self, judge: HeldJudge) -> None:
        self.judge = judge
        self.loaded = ("one",)

    def take(self, folder: Path) -> Judge:
        if folder.name == "broken":
            raise GenerativeUnavailable("unusable", "adapter_model.safetensors is missing")
        return self.judge


class World:
    def __init__(self, folder: Path, waiting: int = 2) -> None:
        self.path = folder / "socket"
        self.judge = HeldJudge()
        self.server = Server(self.path, Shelf(self.judge), waiting=waiting)
        self.client = GenerativeClient(self.path)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    def close(self) -> None:
        self.judge.go.set()
        self.server.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def ask(self, *texts: str, seconds: float = PATIENCE, **options: Any) -> Any:
        return self.client.judge(ARTIFACT, texts, deadline_seconds=seconds, **options)

    def ask_aside(self, *texts: str, **options: Any) -> "Asking":
        return Asking(lambda: self.ask(*texts, **options))

    def say(self, line: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.path))
            connection.sendall(line)
            answer: dict[str, Any] = json.loads(connection.makefile("rb").readline())
            return answer


class Asking:
    """A question asked from a thread of its own."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.answer: Any = None
        self.error: GenerativeUnavailable | None = None
        self._thread = threading.Thread(target=self._run, args=(ask,))
        self._thread.start()

    def _run(self, ask: Callable[[], Any]) -> None:
        try:
            self.answer = ask()
        except GenerativeUnavailable as error:
            self.error = error

    def done(self) -> "Asking":
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self


def until(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    # Behind what an earlier test left in the queue.
    shared.ask("settle")
    shared.judge.asked.clear()
    yield shared
    shared.judge.go.set()


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    # pytest's own folders may be too long for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="gen-") as folder:
        made = World(Path(folder))
        yield made
        made.close()


def test_answers_are_ranked(world: World) -> None:
    assert world.ask("a", "b") == [((1, 2 / 3), (2, 1 / 3))] * 2
    assert world.judge.asked == [("a", None), ("b", None)]


def test_each_text_has_candidates_of_its_own(world: World) -> None:
    world.ask("a", "b", candidates=[[2, 1], None])
    assert world.judge.asked == [("a", (2, 1)), ("b", None)]


def test_many_long_texts_go_in_lines_that_fit(world: World) -> None:
    scorer = GenerativeScorer(world.client, ARTIFACT, (1, 2), deadline_seconds=1.0)
    texts = ["\U00020bb7" * 10_000] * 9 + ["\ud800" * 20_000]
    assert scorer.probabilities(texts).tolist() == [pytest.approx([2 / 3, 1 / 3])] * 10
    assert [len(text) for text, _ in world.judge.asked] == [10_000] * 10


def test_only_this_user_may_speak_to_the_socket(world: World) -> None:
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600


def test_beyond_those_that_wait_the_next_is_told_at_once(world: World) -> None:
    world.judge.go.clear()
    first = world.ask_aside("first")
    until(lambda: len(world.judge.asked) == 1)
    waiting = [world.ask_aside("second"), world.ask_aside("third")]
    until(lambda: world.client.ping(PATIENCE).waiting == 2)

    with pytest.raises(GenerativeUnavailable, match="2 requests are waiting") as refused:
        world.ask("fourth")

    assert refused.value.reason == "busy"
    world.judge.go.set()
    assert all(asking.done().error is None for asking in (first, *waiting))


def test_ping_is_answered_while_it_computes(world: World) -> None:
    world.judge.go.clear()
    asking = world.ask_aside("first")
    until(lambda: len(world.judge.asked) == 1)
    status = world.client.ping(PATIENCE)
    assert (status.waiting, status.loaded) == (0, ("one",))
    world.judge.go.set()
    asking.done()


def test_deadline_that_passed_while_waiting_is_not_computed(world: World) -> None:
    world.judge.go.clear()
    first = world.ask_aside("first")
    until(lambda: len(world.judge.asked) == 1)
    late = world.ask_aside("late", seconds=0.01, grace_seconds=PATIENCE)
    until(lambda: world.client.ping(PATIENCE).waiting == 1)
    time.sleep(0.02)
    world.judge.go.set()
    first.done()

    error = late.done().error

    assert error is not None
    assert (error.reason, str(error)) == ("late", "the deadline passed after 0 of 1 texts")
    assert [text for text, _ in world.judge.asked] == ["first"]


def test_client_waits_no_longer_than_deadline_and_grace(world: World) -> None:
    world.judge.go.clear()
    with pytest.raises(GenerativeUnavailable) as late:
        world.ask("first", seconds=0.01, grace_seconds=0.01)
    assert late.value.reason == "late"


def test_broken_artifact_and_failed_computation_are_sentences(world: World) -> None:
    with pytest.raises(GenerativeUnavailable, match="adapter_model") as broken:
        world.client.judge(Path("/nowhere/broken"), ["a"], deadline_seconds=PATIENCE)
    assert broken.value.reason == "unusable"
    for text, said in (("boom", r"^the computation failed \(IndexError\)$"), ("no memory", "ran out of memory")):
        with pytest.raises(GenerativeUnavailable, match=said) as failed:
            world.ask(text)
        assert failed.value.reason == "failed"
    with pytest.raises(GenerativeUnavailable, match="label 9") as unknown:
        world.ask("a", candidates=[[1, 9]])
    assert unknown.value.reason == "invalid"
    assert world.ask("a")


def test_failures_are_logged_without_the_text(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(GenerativeUnavailable):
        world.ask("boom")
    assert "IndexError" in caplog.text
    assert "boom" not in caplog.text


GOOD = {"id": "x", "artifact": "/a", "texts": ["t"], "candidates": [None], "deadline_seconds": 5}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 5000 + b"\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"{}\n", "id must be"),
        (json.dumps({**GOOD, "id": "i" * 65}).encode() + b"\n", "id must be"),
        (json.dumps({**GOOD, "artifact": ""}).encode() + b"\n", "artifact must name"),
        (json.dumps({**GOOD, "artifact": "/a\0b"}).encode() + b"\n", "artifact must name"),
        (json.dumps({**GOOD, "texts": [1]}).encode() + b"\n", "texts must be"),
        (json.dumps({**GOOD, "texts": ["t"] * 65}).encode() + b"\n", "texts must be"),
        (json.dumps({**GOOD, "texts": ["t" * 10_001]}).encode() + b"\n", "more than 10000 characters"),
        (json.dumps({**GOOD, "candidates": []}).encode() + b"\n", "one entry for each text"),
        (json.dumps({**GOOD, "candidates": [[]]}).encode() + b"\n", "candidates must be"),
        (json.dumps({**GOOD, "candidates": [[1, 1]]}).encode() + b"\n", "distinct"),
        (json.dumps({**GOOD, "candidates": [[True]]}).encode() + b"\n", "distinct label ids"),
        (json.dumps({**GOOD, "deadline_seconds": True}).encode() + b"\n", "deadline_seconds must"),
        (b'{"id":"x","artifact":"/a","texts":[],"deadline_seconds":NaN}\n', "deadline_seconds must"),
        (b'{"id":"x","artifact":"/a","texts":[],"deadline_seconds":1e999}\n', "deadline_seconds must"),
        (b"x" * (MAX_LINE_BYTES + 2), "longer than"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_line_is_answered_in_a_sentence(world: World, line: bytes, said: str) -> None:
    answer = world.say(line)
    assert said in answer["error"]
    assert answer["reason"] == "invalid"
    assert world.ask("a")


def test_bad_line_leaves_the_connection_open_for_the_next(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(world.path))
        lines = connection.makefile("rb")
        connection.sendall(b"nonsense\n" + json.dumps(GOOD).encode() + b"\n")
        assert "not JSON" in json.loads(lines.readline())["error"]
        assert json.loads(lines.readline())["answers"] == [[[1, 2 / 3], [2, 1 / 3]]]


def test_client_that_hangs_up_harms_nobody(world: World) -> None:
    world.judge.go.clear()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(world.path))
        connection.sendall(json.dumps(GOOD).encode() + b"\n")
        until(lambda: len(world.judge.asked) == 1)
    world.judge.go.set()
    assert world.ask("a")


def test_more_connections_than_places_are_told_at_once(world: World) -> None:
    held = []
    for _ in range(MOST_CONNECTIONS):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(str(world.path))
        # Answered: it has its place.
        connection.sendall(b'{"ping":1}\n')
        assert connection.recv(1)
        held.append(connection)
    with pytest.raises(GenerativeUnavailable, match="connections are open") as refused:
        world.client.ping(PATIENCE)
    assert refused.value.reason == "busy"
    for connection in held:
        connection.close()


def test_socket_of_a_dead_process_is_replaced() -> None:
    with tempfile.TemporaryDirectory(prefix="gen-") as folder:
        path = Path(folder) / "socket"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with pytest.raises(GenerativeUnavailable) as nobody:
            GenerativeClient(path).ping(PATIENCE)
        assert nobody.value.reason == "unreachable"

        world = World(Path(folder))

        assert world.ask("a")
        world.close()
        assert not path.exists()


def test_nobody_at_the_socket_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(GenerativeUnavailable, match="does not answer") as nobody:
        GenerativeClient(tmp_path / "socket").judge(ARTIFACT, ["a"], deadline_seconds=1.0)
    assert nobody.value.reason == "unreachable"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense\n",
        b"[]\n",
        b'{"id":"y","answers":[[[1,1.0]]]}\n',
        b'{"answers":[[[1,0.5]]]}\n',
        b'{"answers":[[[1,NaN]]]}\n',
    ],
    ids=str,
)
def test_something_that_is_no_answer_is_not_taken_for_one(said: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="gen-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "socket"
        listener.bind(str(path))
        listener.listen()

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = json.loads(connection.makefile("rb").readline())
                connection.sendall(said.replace(b'{"answers"', b'{"id":"%s","answers"' % asked["id"].encode()))

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(GenerativeUnavailable) as garbled:
            GenerativeClient(path).judge(ARTIFACT, ["a"], deadline_seconds=PATIENCE)
        thread.join(PATIENCE)
        assert garbled.value.reason in ("garbled", "unreachable")
