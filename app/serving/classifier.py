"""The way of a question: clean, mask, decide, log, answer; no answer leaves before its row is committed."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from app.errors import DomainNotFound, NoGenerativeAnswer, TextRefused, Unavailable
from app.intent.cascade import Decision, decide_many
from app.intent.masking import mask
from app.intent.questions import AskedQuestion, new_question_id
from app.intent.text import MaskedText, TextEmpty, TextTooLong, clean, text_hash
from app.serving.batching import GreedyBatcher
from app.serving.generative import Recheck
from app.serving.runtime import Loaded, Runtime

Logged = TypeVar("Logged")
Inference: TypeAlias = "GreedyBatcher[tuple[Loaded, MaskedText], Decision]"
INFERENCE_SIZE = 32
# Characters of one request that are cleaned between two answers; more would make everybody wait, and go to a thread.
CLEANED_AT_ONCE = 2_000
DRAIN_POLL_SECONDS = 0.01
# So many of the best labels are kept in the log, or as many as were asked for.
LOGGED_TOPK = 5
# So many domains, at most, have an inference thread of their own; more share them.
MOST_THREADS = 64
_BODY = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class Asked:
    """One text to classify, as the caller sent it."""

    text: str
    domain: str
    request_id: str | None = None
    user_id: str | None = None
    topk: int = 3
    train_allowed: bool = True


class Secret:
    """The installation's key for hashes of what must be compared but not kept."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # Copied for each hash: the module's short form lets go of the interpreter, and gets it back behind all others.
        self._begun = hmac.new(key, digestmod=hashlib.sha256)

    @property
    def key(self) -> bytes:
        """For hashes that are made elsewhere."""
        return self._key

    def of_user(self, user_id: str | None) -> str | None:
        """A user's keyed hash; equal users have equal hashes, and nobody without the key can try names."""
        return None if user_id is None else self._hash("user", user_id)

    def of_body(self, body: Mapping[str, Any]) -> str:
        """The keyed hash by which two requests with one id are compared, before anything is masked."""
        return self._hash("body", _BODY.encode(body))

    def of_written_body(self, body: bytes) -> str:
        """As `of_body`, of a body that is always written in one way."""
        return self._hash("body", body.decode())

    def _hash(self, kind: str, value: str) -> str:
        keyed = self._begun.copy()
        keyed.update(f"{kind}\n{value}".encode())
        return keyed.hexdigest()


def cleaned(raw: str) -> MaskedText:
    """Normalise and mask a text from outside.

    Raises:
        TextRefused: it is empty or too long.
    """
    try:
        return mask(clean(raw))
    except (TextEmpty, TextTooLong) as error:
        raise TextRefused(str(error)) from error


class Log(Protocol[Logged]):
    """Takes decided questions, and gives what holds each of them now, or an error in its place."""

    async def submit(self, items: Sequence[AskedQuestion]) -> list[Logged | BaseException]: ...


class Classifier(Generic[Logged]):
    """Decides by what the runtime has loaded, and hands every decision to the log before it is an answer."""

    def __init__(
        self,
        runtime: Runtime,
        log: Log[Logged],
        secret: Secret,
        *,
        capacity: int,
        refresh: Callable[[], None],
        recheck: Recheck | None = None,
    ) -> None:
        """
        Args:
            refresh: looks at once for domains that were made a moment ago.
            recheck: asks the generative tier, where it is switched on.
        """
        self._runtime = runtime
        self._refresh = refresh
        self._log = log
        self._secret = secret
        self._capacity = capacity
        self._recheck = recheck
        # One thread for each domain, and so for each loaded model: a slow one does not stop a fast one.
        self._inference: dict[int, Inference] = {}
        self._in_flight = 0
        self._closing = False

    async def classify(
        self, asked: Sequence[Asked], *, gone: Callable[[], bool] | None = None
    ) -> list[Logged | BaseException]:
        """One logged answer, or one error, for each question, in order.

        `gone`: whether the caller has hung up; questions that still wait for the model are then dropped. Those that it
        has decided are logged all the same.

        Raises:
            Overloaded: the queues are full.
            Unavailable: the service is shutting down.
        """
        if self._closing:
            raise Unavailable("the service is shutting down")
        self._in_flight += 1
        try:
            return await self._classify(asked, gone)
        finally:
            self._in_flight -= 1

    async def refine(self, asked: Asked) -> Logged | BaseException:
        """The logged answer of the generative tier, asked alone about all labels; or the log's error.

        Raises:
            DomainNotFound, TextRefused.
            NoGenerativeAnswer: the tier is switched off, or gave no answer; nothing is logged.
            Unavailable: the service is shutting down.
        """
        if self._closing:
            raise Unavailable("the service is shutting down")
        if self._recheck is None:
            raise NoGenerativeAnswer("the generative tier is switched off (INTENTLOOP_GENERATIVE)")
        self._in_flight += 1
        try:
            start = time.perf_counter()
            await self.require(asked.domain)
            loaded = self._runtime.find(asked.domain)
            if loaded is None:
                raise DomainNotFound("there is no domain of this name")
            text = cleaned(asked.text)
            decision = await self._recheck.alone(loaded, text)
            row = self._row(asked, text, loaded, decision, start)
            [logged] = await self._log.submit([row])
            return logged
        finally:
            self._in_flight -= 1

    @property
    def waiting(self) -> int:
        """How many questions wait for the models."""
        return sum(batcher.waiting for batcher in list(self._inference.values()))

    async def require(self, domain: str) -> None:
        """Look for a domain, in the database too when this process does not know it yet.

        Raises:
            DomainNotFound: there is none.
        """
        if self._runtime.find(domain) is None:
            await asyncio.to_thread(self._refresh)
            if self._runtime.find(domain) is None:
                raise DomainNotFound("there is no domain of this name")

    async def close(self) -> None:
        """Take nothing new, answer what is in flight, then stop."""
        self._closing = True
        while self._in_flight:
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        for batcher in self._inference.values():
            await asyncio.to_thread(batcher.close)
        if self._recheck is not None:
            await asyncio.to_thread(self._recheck.close)

    async def _classify(self, asked: Sequence[Asked], gone: Callable[[], bool] | None) -> list[Logged | BaseException]:
        start = time.perf_counter()
        find = self._runtime.find
        if any(find(question.domain) is None for question in asked):
            await asyncio.to_thread(self._refresh)
        if sum(len(question.text) for question in asked) > CLEANED_AT_ONCE:
            texts = await asyncio.to_thread(_clean_each, asked)
        else:
            texts = _clean_each(asked)
        results: list[Logged | BaseException | None] = [None] * len(asked)
        ready: dict[int, list[tuple[int, Loaded, MaskedText]]] = {}
        for position, (question, text) in enumerate(zip(asked, texts, strict=True)):
            loaded = find(question.domain)
            if loaded is None:
                results[position] = DomainNotFound("there is no domain of this name")
            elif isinstance(text, TextRefused):
                results[position] = text
            else:
                ready.setdefault(loaded.release.state.domain_id, []).append((position, loaded, text))
        rows: list[AskedQuestion] = []
        logged_positions: list[int] = []
        for domain_id, group in ready.items():
            items = [(loaded, text) for _, loaded, text in group]
            decisions = await self._batcher(domain_id).submit(items, gone=gone)
            if self._recheck is not None:
                decisions = await self._asked_again(self._recheck, group, decisions, gone)
            for (position, loaded, text), decision in zip(group, decisions, strict=True):
                if isinstance(decision, BaseException):
                    results[position] = decision
                else:
                    rows.append(self._row(asked[position], text, loaded, decision, start))
                    logged_positions.append(position)
        if rows:
            for position, logged in zip(logged_positions, await self._log.submit(rows), strict=True):
                results[position] = logged
        return results  # type: ignore[return-value]  # every place is filled by now

    async def _asked_again(
        self,
        recheck: Recheck,
        group: Sequence[tuple[int, Loaded, MaskedText]],
        decisions: Sequence[Decision | BaseException],
        gone: Callable[[], bool] | None,
    ) -> list[Decision | BaseException]:
        """The decisions, with the generative tier's verdicts on those that do not stand; all of them at once."""
        further: list[Decision | BaseException] = list(decisions)
        unsure = {
            place: recheck.further(group[place][1], group[place][2], decision, gone=gone)
            for place, decision in enumerate(decisions)
            if isinstance(decision, Decision) and decision.trigger_check
        }
        if not unsure:
            return further
        for place, decision in zip(unsure, await asyncio.gather(*unsure.values()), strict=True):
            further[place] = decision
        return further

    def _batcher(self, domain_id: int) -> Inference:
        key = domain_id % MOST_THREADS
        found = self._inference.get(key)
        if found is None:
            found = self._inference[key] = GreedyBatcher(
                _decide, size=INFERENCE_SIZE, capacity=self._capacity, name=f"inference-{key}", skips_abandoned=True
            )
        return found

    def _row(
        self, question: Asked, text: MaskedText, loaded: Loaded, decision: Decision, start: float
    ) -> AskedQuestion:
        paths = loaded.release.paths
        keep = loaded.release.state.keep_text
        return AskedQuestion(
            domain_id=loaded.release.state.domain_id,
            question_id=new_question_id(),
            request_id=question.request_id,
            body_hash=self._secret.of_body(
                {"text": question.text, "user_id": question.user_id, "train_allowed": question.train_allowed}
            ),
            user_hash=self._secret.of_user(question.user_id),
            text=text if keep else None,
            text_hash=text_hash(text) if keep else text_hash(text, secret=self._secret.key),
            source="served",
            train_allowed=question.train_allowed,
            asked_at=datetime.now(UTC),
            intents=[] if decision.label_id is None else [paths[decision.label_id]],
            confidence=None if decision.confidence is None else round(decision.confidence, 6),
            method=decision.method,
            topk=[[paths[label_id], round(p, 6)] for label_id, p in decision.topk[: max(question.topk, LOGGED_TOPK)]],
            verdicts=decision.as_log(),
            route_used=list(decision.route_used),
            trigger_check=decision.trigger_check,
            model_version=_model_version(loaded, decision),
            latency_ms=round((time.perf_counter() - start) * 1000, 3),
        )


def _model_version(loaded: Loaded, decision: Decision) -> str | None:
    """The version that serves; where the generative tier alone was asked, its own."""
    alone = decision.route_used == ("generative",)
    return loaded.release.generative_version if alone else loaded.release.version


def _clean_each(asked: Sequence[Asked]) -> list[MaskedText | TextRefused]:
    texts: list[MaskedText | TextRefused] = []
    for question in asked:
        try:
            texts.append(cleaned(question.text))
        except TextRefused as error:
            texts.append(error)
    return texts


def _decide(items: Sequence[tuple[Loaded, MaskedText]]) -> list[Decision | Exception]:
    """Decide a mixed list: the texts of each release together."""
    first = items[0][0]
    if all(loaded is first for loaded, _ in items):
        return list(decide_many([text for _, text in items], first.tiers, threshold=first.release.threshold))
    decided: dict[int, Decision] = {}
    groups: dict[int, list[int]] = {}
    for position, (loaded, _) in enumerate(items):
        groups.setdefault(id(loaded), []).append(position)
    for positions in groups.values():
        loaded = items[positions[0]][0]
        texts = [items[position][1] for position in positions]
        decisions = decide_many(texts, loaded.tiers, threshold=loaded.release.threshold)
        decided.update(zip(positions, decisions, strict=True))
    return [decided[position] for position in range(len(items))]
