"""Speak the service's HTTP contract, and count every request that did not end as it should."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, TypeVar

import httpx

LOOP: Final = "/api/v1/model-tuning"

T = TypeVar("T")


class LoopFailed(Exception):
    """The loop did not come as far as it should; the message says what was waited for."""


class RequestFailed(LoopFailed):
    """A request got no answer, or one that was not expected."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Client:
    """One domain of one service. Threads share it; `failed` counts the requests that failed, of `sent`."""

    def __init__(self, address: str, *, domain: str = "default", timeout_seconds: float = 60.0) -> None:
        self.address = address
        self.domain = domain
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=32)
        # The service is on this machine: a proxy of the environment has no business between.
        self._http = httpx.Client(base_url=address, timeout=timeout_seconds, limits=limits, trust_env=False)
        self._lock = Lock()
        self.sent = 0
        self.failed = 0
        self.failures: Counter[str] = Counter()

    @contextmanager
    def open(self) -> "Iterator[Client]":
        """Close the connections when the block ends."""
        try:
            yield self
        finally:
            self._http.close()

    # What a product API does

    def classify(self, text: str, *, train_allowed: bool = True) -> dict[str, Any]:
        """The answer to one question."""
        body = {"text": text, "domain": self.domain, "train_allowed": train_allowed}
        return self._object("POST", "/classify", json=body)

    def classify_batch(self, texts: Sequence[str], *, train_allowed: bool = True) -> list[dict[str, Any]]:
        """The answers to up to 256 questions, in order; an error in place of one is a failed request."""
        body = {"texts": list(texts), "domain": self.domain, "train_allowed": train_allowed}
        results: list[dict[str, Any]] = self._object("POST", "/classify/batch", json=body)["results"]
        for result in results:
            if "error" in result:
                self._count_failure(f"POST /classify/batch: item: {result['error'].get('code')}")
        return results

    # What a labeler does

    def unlabelled(self, labeler_id: str, *, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` texts, leased to this labeler."""
        parameters = {"labeler_id": labeler_id, "limit": limit}
        items: list[dict[str, Any]] = self._get("/questions/unlabeled", **parameters)["items"]
        return items

    def label(self, item: Mapping[str, Any], label: str, *, labeler_id: str) -> None:
        """Answer a leased text."""
        body = {"correct_intent": [label], "labeler_id": labeler_id, "lease_token": item["lease_token"]}
        self._object("POST", f"{LOOP}/questions/{item['question_id']}/label", json=body)

    def skip(self, item: Mapping[str, Any], *, labeler_id: str) -> None:
        """Say that this labeler cannot answer a leased text."""
        self._object("POST", f"{LOOP}/questions/{item['question_id']}/skip", json={"labeler_id": labeler_id})

    # What an operator does

    def put_taxonomy(self, taxonomy: object) -> list[str]:
        """Make these the labels of the domain; the paths that the service made of them."""
        answer = self._object("PUT", f"{LOOP}/taxonomy", params={"domain": self.domain}, json=taxonomy)
        return [label["label"] for label in answer["labels"] if label.get("status", "active") == "active"]

    def train_with(self, recipe: str, base_model: str | None) -> None:
        """Train the domain's batches with this recipe from now on."""
        self._object("PATCH", f"{LOOP}/domains/{self.domain}", json={"recipe": recipe, "base_model": base_model})

    def add_rule(self, rule: Mapping[str, Any]) -> None:
        """Add a keyword rule: `keyword` and `intent`."""
        self._object("POST", f"{LOOP}/keywords", json={**rule, "domain": self.domain})

    def activate_rule(self, rule_id: int) -> None:
        """Let a rule serve, as a person does who has looked at its evidence."""
        self._object("PATCH", f"{LOOP}/keywords/{rule_id}", json={"status": "active"})

    def rules(self, *, status: str, limit: int = 500) -> list[dict[str, Any]]:
        """The keyword rules of this status."""
        items: list[dict[str, Any]] = self._get("/keywords", status=status, limit=limit)["items"]
        return items

    def open_batch(self, description: str) -> str | None:
        """Open a batch of all new labels and tell it to run; None when there is no new label."""
        body = {"domain": self.domain, "description": description}
        answer = self._request("POST", f"{LOOP}/batches", json=body, expected=("nothing_new",))
        if answer.status_code == 409:
            return None
        batch_id: str = answer.json()["batch_id"]
        self._object("POST", f"{LOOP}/batches/{batch_id}/run", json={"auto_extract_keywords": False})
        return batch_id

    def newest_batch(self) -> dict[str, Any] | None:
        """The batch that was opened last, or None."""
        items: list[dict[str, Any]] = self._get("/batches", limit=1)["items"]
        return items[0] if items else None

    def batch(self, batch_id: str) -> dict[str, Any]:
        """One batch."""
        return self._get(f"/batches/{batch_id}")

    def stats(self) -> dict[str, Any]:
        """The figures of the domain."""
        return self._get("/stats")

    def version(self, version: str) -> dict[str, Any]:
        """One registered version with its evaluation."""
        return self._get(f"/models/{version}")

    def loaded_version(self) -> str | None:
        """The version that the service answers with at this moment, or None."""
        for domain in self._object("GET", "/readyz").get("domains", []):
            if domain["domain"] == self.domain:
                version: str | None = domain.get("version")
                return version
        return None

    def _get(self, path: str, **parameters: Any) -> dict[str, Any]:
        return self._object("GET", f"{LOOP}{path}", params={"domain": self.domain, **parameters})

    def _object(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._request(method, path, **content).json()
        return answer

    def _request(self, method: str, path: str, *, expected: Sequence[str] = (), **content: Any) -> httpx.Response:
        """Send; a 2xx, or a problem whose code is expected, is an answer.

        Raises:
            RequestFailed: anything else, counted.
        """
        with self._lock:
            self.sent += 1
        named = f"{method} {path.split('?')[0]}"
        try:
            answer = self._http.request(method, path, **content)
            if answer.is_success:
                answer.json()
                return answer
        except (httpx.HTTPError, ValueError) as error:
            self._count_failure(f"{named}: {type(error).__name__}")
            raise RequestFailed(f"{named} got no answer: {error or type(error).__name__}") from error
        problem = _problem(answer)
        code = problem.get("code")
        if code in expected:
            return answer
        self._count_failure(f"{named}: {answer.status_code} {code}")
        detail = problem.get("detail") or problem.get("title") or answer.reason_phrase
        raise RequestFailed(
            f"{named} was answered {answer.status_code}: {detail}", status=answer.status_code, code=code
        )

    def _count_failure(self, what: str) -> None:
        with self._lock:
            self.failed += 1
            self.failures[what] += 1


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        parsed = answer.json()
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def wait_for(what: str, probe: Callable[[], T | None], *, seconds: float, every: float = 0.1) -> T:
    """Ask until the probe gives something.

    Raises:
        LoopFailed: it gave nothing for so long; the message names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while (found := probe()) is None:
        if time.monotonic() >= deadline:
            raise LoopFailed(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)
    return found
