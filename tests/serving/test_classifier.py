"""The way of a question: one bad question harms no other, and nothing is answered that was not logged."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import CallerGone, DomainNotFound, Overloaded, TextRefused, Unavailable
from app.intent.cascade import Verdict
from app.intent.questions import AskedQuestion
from app.serving.batching import GreedyBatcher
from app.serving.classifier import Asked, Classifier, Secret
from app.serving.runtime import Loaded, Runtime
from tests.serving.artifacts import LABELS, Artifact, release


class Log:
    """Where rows go: keeps them, or refuses those of one text."""

    def __init__(self) -> None:
        self.rows: list[AskedQuestion] = []
        self.refused: str | None = None
        self.open = threading.Event()
        self.open.set()

    def __call__(self, rows: Sequence[AskedQuestion]) -> list[AskedQuestion | Exception]:
        self.open.wait(10)
        results: list[AskedQuestion | Exception] = []
        for row in rows:
            if self.refused is not None and row.text == self.refused:
                results.append(TextRefused("refused"))
            else:
                self.rows.append(row)
                results.append(row)
        return results


class Parts:
    """A classifier on a real runtime, whose log is in memory."""

    def __init__(self, runtime: Runtime, capacity: int = 100) -> None:
        self.log = Log()
        self.runtime = runtime
        self.batcher: GreedyBatcher[AskedQuestion, Any] = GreedyBatcher(
            self.log, size=50, capacity=capacity, name="log"
        )
        self.refreshed = 0
        self.classifier = Classifier(runtime, self.batcher, Secret(b"k" * 32), capacity=capacity, refresh=self._refresh)

    def _refresh(self) -> None:
        self.refreshed += 1

    def ask(self, *texts: str, **fields: Any) -> list[Any]:
        asked = [Asked(**({"text": text, "domain": "default"} | fields)) for text in texts]
        return asyncio.run(self.classifier.classify(asked))

    def close(self) -> None:
        asyncio.run(self.classifier.close())
        self.batcher.close()


@pytest.fixture
def parts(tmp_path: Path, artifact: Artifact) -> Any:
    artifact.installed_in(tmp_path)
    runtime = Runtime(tmp_path)
    runtime.swap(release(artifact, threshold=0.7))
    parts = Parts(runtime)
    yield parts
    parts.close()


def test_answer_is_the_row_that_was_logged(parts: Parts) -> None:
    [row] = parts.ask("我要退货 13812345678", user_id="u", request_id="r")
    assert parts.log.rows == [row]
    assert row.intents == [LABELS[1]]
    assert row.model_version == "default-v1"
    assert row.request_id == "r"
    assert "13812345678" not in row.text
    assert row.user_hash
    assert len(row.user_hash) == 64
    assert row.source == "served"
    assert row.asked_at.tzinfo is not None


def test_bad_question_harms_no_other(parts: Parts) -> None:
    asked = [
        Asked("手机开不了机", "default"),
        Asked("   ", "default"),
        Asked("x" * 20_001, "default"),
        Asked("你好", "nowhere"),
        Asked("我要退货", "default"),
    ]
    results = asyncio.run(parts.classifier.classify(asked))
    assert [type(result) for result in results] == [
        AskedQuestion, TextRefused, TextRefused, DomainNotFound, AskedQuestion,
    ]  # fmt: skip
    assert [row.intents for row in parts.log.rows] == [[LABELS[0]], [LABELS[1]]]


def test_log_that_refuses_one_row_fails_one_question(parts: Parts) -> None:
    parts.log.refused = "坏"
    first, bad, last = parts.ask("手机开不了机", "坏", "我要退货")
    assert isinstance(bad, TextRefused)
    assert (first.intents, last.intents) == ([LABELS[0]], [LABELS[1]])


def test_unknown_domain_is_looked_for_once_a_request(parts: Parts, artifact: Artifact) -> None:
    assert [type(result) for result in parts.ask("a", "b", domain="fresh")] == [DomainNotFound, DomainNotFound]
    assert parts.refreshed == 1
    parts.runtime.swap(release(None, domain="fresh"))
    [row] = parts.ask("a", domain="fresh")
    assert row.method == "none"
    assert parts.refreshed == 1
    with pytest.raises(DomainNotFound):
        asyncio.run(parts.classifier.require("nowhere"))


def test_question_keeps_the_version_that_it_was_given_to(
    parts: Parts, tmp_path: Path, artifact: Artifact, other_artifact: Artifact
) -> None:
    """The flip comes while the log is busy: label and version still belong together."""
    other_artifact.installed_in(tmp_path)
    parts.log.open.clear()

    async def run() -> list[Any]:
        asking = asyncio.create_task(parts.classifier.classify([Asked("手机开不了机", "default")]))
        await asyncio.sleep(0.1)
        parts.runtime.swap(release(other_artifact, epoch=2, version="default-v2"))
        parts.log.open.set()
        return [*await asking, *await parts.classifier.classify([Asked("手机开不了机", "default")])]

    before, after = asyncio.run(run())
    assert (before.model_version, after.model_version) == ("default-v1", "default-v2")
    assert before.intents == after.intents == [LABELS[0]]


def test_question_whose_client_went_away_is_logged(parts: Parts) -> None:
    parts.log.open.clear()

    async def run() -> None:
        asking = asyncio.create_task(parts.classifier.classify([Asked("手机开不了机", "default")]))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(run())
    parts.log.open.set()
    parts.ask("之后")
    assert [row.text for row in parts.log.rows] == ["手机开不了机", "之后"]


def test_more_than_the_queues_hold_is_refused_at_once(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path)
    runtime.swap(release(None))
    parts = Parts(runtime, capacity=5)
    with pytest.raises(Overloaded):
        parts.ask(*["x"] * 6)
    assert len(parts.ask(*["x"] * 5)) == 5
    parts.close()
    assert len(parts.log.rows) == 5


def test_closing_answers_what_is_in_flight_and_takes_nothing_new(parts: Parts) -> None:
    parts.log.open.clear()

    async def run() -> list[Any]:
        asking = [asyncio.create_task(parts.classifier.classify([Asked(f"第{i}句", "default")])) for i in range(20)]
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(parts.classifier.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        with pytest.raises(Unavailable):
            await parts.classifier.classify([Asked("spät", "default")])
        parts.log.open.set()
        await closing
        assert all(task.done() for task in asking)
        return [result for task in asking for result in await task]

    results = asyncio.run(run())
    assert [result.text for result in results] == [f"第{i}句" for i in range(20)]


def test_hash_only_domain_hands_no_text_to_the_log(tmp_path: Path) -> None:
    from dataclasses import replace

    runtime = Runtime(tmp_path)
    whole = release(None)
    runtime.swap(replace(whole, state=replace(whole.state, keep_text=False)))
    parts = Parts(runtime)
    first, twin, other = parts.ask("你好", " 你好 ", "再见")
    parts.close()
    assert [row.text for row in (first, twin, other)] == [None, None, None]
    assert first.text_hash == twin.text_hash != other.text_hash
    # The key is in it: nobody without it can try texts.
    from app.intent.text import MaskedText, text_hash

    assert first.text_hash != text_hash(MaskedText("你好"))


def test_bodies_are_compared_by_text_user_and_permission(parts: Parts) -> None:
    rows = [
        parts.ask("a", user_id="u")[0],
        parts.ask("a", user_id="u", request_id="r", topk=9)[0],
        parts.ask("b", user_id="u")[0],
        parts.ask("a", user_id="v")[0],
        parts.ask("a", user_id="u", train_allowed=False)[0],
    ]
    hashes = [row.body_hash for row in rows]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_question_whose_client_hung_up_before_the_model_saw_it_is_dropped_and_not_logged(parts: Parts) -> None:
    [dropped] = asyncio.run(parts.classifier.classify([Asked("手机开不了机", "default")], gone=lambda: True))
    assert isinstance(dropped, CallerGone)
    assert parts.log.rows == []


def test_a_slow_domain_does_not_stop_another_one(parts: Parts, artifact: Artifact) -> None:
    may_judge = threading.Event()

    class Slow:
        name, fuses = "discriminative", ()

        def judge_many(self, texts: Sequence[str], _: Sequence[Any]) -> list[Any]:
            may_judge.wait(20)
            return [Verdict("discriminative", None) for _ in texts]

    quick = release(artifact, domain="quick")
    quick = replace(quick, state=replace(quick.state, domain_id=2))
    parts.runtime.swap(quick)
    slow = parts.runtime.loaded["default"]
    parts.runtime._loaded = {**parts.runtime.loaded, "default": Loaded(slow.release, (Slow(),))}

    async def run() -> list[Any]:
        held = asyncio.create_task(parts.classifier.classify([Asked("手机开不了机", "default")]))
        await asyncio.sleep(0.05)
        answered = await asyncio.wait_for(parts.classifier.classify([Asked("我要退货", "quick")]), 15)
        assert not held.done()
        may_judge.set()
        return [*answered, *await held]

    assert [row.intents for row in asyncio.run(run())] == [[LABELS[1]], []]


def test_log_keeps_five_labels_or_as_many_as_were_asked_for(parts: Parts, tmp_path: Path) -> None:
    loaded = parts.runtime.loaded["default"]
    topk = tuple((label_id, 0.1) for label_id in (1, 2, 3) * 3)

    class Wide:
        name, fuses = "discriminative", ()

        def judge_many(self, texts: Sequence[str], _: Sequence[Any]) -> list[Any]:
            return [Verdict("discriminative", 1, 0.1, topk) for _ in texts]

    parts.runtime._loaded = {**parts.runtime.loaded, "default": Loaded(loaded.release, (Wide(),))}
    kept = [len(parts.ask("手机开不了机", topk=asked)[0].topk) for asked in (1, 5, 7, 20)]
    assert kept == [5, 5, 7, 9]
