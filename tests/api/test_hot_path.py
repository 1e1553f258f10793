"""The short way of `/classify` answers as the ordinary one does, to the letter, and leaves it all that is not plain."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from starlette.types import Receive, Scope, Send

from app.api.hot_path import HotPath
from app.errors import Overloaded
from tests.api.conftest import Service

JSON = {"content-type": "application/json"}
# A page of the service's own: allowed, and only the ordinary way knows about pages.
ORDINARY = JSON | {"origin": "http://testserver"}
# What differs from one request to the next; where an answer is kept, on a machine whose disk is slow for a moment, too.
IDS = ("question_id", "latency_ms", "logged")

PLAIN = [
    {"text": "手机开不了机"},
    {"text": "退货 🙂", "topk": 1},
    {"text": "x", "topk": 3.0},
    {"text": "x", "request_id": None, "user_id": "u", "train_allowed": False, "domain": "default"},
    {"text": "\u200b x \ufdfa"},
]
REFUSED = [
    b"",
    b"{}",
    b"null",
    b"[]",
    b"\xff",
    b'\xef\xbb\xbf{"text": "x"}',
    b'{"text": "x"} x',
    b'{"text": ""}',
    b'{"text": " "}',
    b'{"text": 1}',
    b'{"text": "x", "topk": 0}',
    b'{"text": "x", "topk": NaN}',
    b'{"text": "x", "topk": 1e999}',
    b'{"text": "x", "topk": 99999999999999999999999}',
    b'{"text": "x", "topk": "3"}',
    b'{"text": "x", "train_allowed": 1}',
    b'{"text": "x", "domain": "nowhere"}',
    b'{"text": "x", "domain": "no such name"}',
    b'{"text": "x", "request_id": ""}',
    b'{"text": "x", "more": NaN}',
    b'{"text": "x", "more": ' + b"[" * 40 + b"]" * 40 + b"}",
    b'{"text": "' + b"a" * 20_001 + b'"}',
]
# Taken, but not as they are.
REPLACED = [
    b'{"text": "a\\u0000b"}',
    b'{"text": "a\\ud800b"}',
    b'{"text": "x", "request_id": "a\\u0000b"}',
    b'{"text": "x", "more": [1, {"y": "z"}]}',
    b'{"text": "x", "text": "y"}',
    b'{"text": "x", "topk": 1, "topk": 2}',
]


def _without_ids(answer: httpx.Response) -> tuple[int, Any, str]:
    body = answer.json()
    for name in IDS:
        body.pop(name, None)
    return answer.status_code, body, answer.headers["content-type"]


def _both(service: Service, body: bytes) -> tuple[httpx.Response, httpx.Response]:
    return (
        service.http.post("/classify", content=body, headers=JSON),
        service.http.post("/classify", content=body, headers=ORDINARY),
    )


@pytest.mark.parametrize("body", [json.dumps(body).encode() for body in PLAIN] + REFUSED + REPLACED, ids=range(33))
def test_both_ways_give_the_same_answer(service_with_model: Service, body: bytes) -> None:
    short, ordinary = _both(service_with_model, body)
    assert _without_ids(short) == _without_ids(ordinary)
    assert set(short.headers) - {"retry-after"} == set(ordinary.headers) - {"retry-after", "vary"}


@given(
    st.dictionaries(
        st.sampled_from(["text", "domain", "request_id", "user_id", "topk", "train_allowed", "other"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.none(), max_size=2),
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_ways_agree_on_anything(calm: Service, body: dict[str, Any], with_text: bool) -> None:
    if with_text:
        body = {**body, "text": "你好", "domain": "default"}
    body.pop("request_id", None) if body.get("request_id") else None
    short, ordinary = _both(calm, json.dumps(body).encode())
    assert _without_ids(short) == _without_ids(ordinary)


class Cut:
    """In place of the ordinary way: remembers who came, and answers nobody."""

    def __init__(self) -> None:
        self.came = 0

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        self.came += 1
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def _cut(service: Service) -> Cut:
    hot = service.http.app.middleware_stack  # type: ignore[attr-defined]
    assert isinstance(hot, HotPath)
    hot._app = cut = Cut()
    return cut


def test_plain_requests_take_the_short_way_and_others_do_not(service_with_model: Service) -> None:
    cut = _cut(service_with_model)
    for body in PLAIN:
        assert service_with_model.http.post("/classify", json=body).status_code == 200
    assert cut.came == 0

    def ordinary(content: bytes = b'{"text": "x"}', **headers: str) -> None:
        before = cut.came
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        assert service_with_model.http.post("/classify", content=content, headers=JSON | named).status_code == 418
        assert cut.came == before + 1

    for body in REFUSED[:8]:
        ordinary(body)
    ordinary(Idempotency_Key="k")
    ordinary(Origin="http://testserver")
    ordinary(Host="elsewhere.example")
    ordinary(X_Forwarded_For="1.2.3.4")
    ordinary(Content_Type="text/plain")
    ordinary(b'{"text": "' + b"a" * 70_000 + b'"}')
    assert service_with_model.http.get("/classify").status_code == 418


def test_an_answer_names_its_request_on_both_ways(service: Service) -> None:
    for headers in (JSON, ORDINARY):
        answer = service.http.post("/classify", content=b'{"text": "x"}', headers=headers | {"x-request-id": "mine"})
        assert answer.headers["x-request-id"] == "mine"
        answer = service.http.post("/classify", content=b'{"text": "x"}', headers=headers)
        assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Overloaded("full"), 503, "overloaded"),
        (OperationalError("SELECT 'secret'", {}, Exception("secret")), 503, "unavailable"),
        (RuntimeError("secret"), 500, "internal_error"),
    ],
    ids=["refused", "database", "unforeseen"],
)
def test_what_goes_wrong_is_the_same_problem_on_both_ways(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    async def fails(*_: Any, **__: Any) -> list[Any]:
        raise error

    monkeypatch.setattr(service.services.classifier, "classify", fails)
    for answer in _both(service, b'{"text": "x"}'):
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "secret" not in answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert ("retry-after" in answer.headers) == (status == 503)


def test_both_ways_are_counted_under_one_route(service: Service) -> None:
    for answer in _both(service, b'{"text": "x"}') + _both(service, b"{}"):
        assert answer.status_code in (200, 422)
    figures = service.get("/metrics").text
    assert 'intentloop_http_requests_total{method="POST",route="/classify",status="200"} 2.0' in figures
    assert 'intentloop_http_requests_total{method="POST",route="/classify",status="422"} 2.0' in figures
