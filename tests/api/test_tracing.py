"""The ids of a request: echoed or made, never malformed, and there for whatever the request does."""

import json
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app import logs
from app.api import tracing
from app.api.metrics import Metrics
from app.api.observing import Observed
from tests.api.conftest import LOOP, Service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def echo() -> Iterator[TestClient]:
    """An application whose routes say in which trace they run, on the loop and in a thread."""
    app = FastAPI()
    app.add_middleware(Observed, metrics=Metrics(), access_level=logging.INFO)

    @app.get("/thread")
    def thread() -> dict[str, Any]:
        return {"trace_id": tracing.current_trace_id()}

    @app.get("/loop")
    async def loop() -> dict[str, Any]:
        return {"trace_id": tracing.current_trace_id()}

    with TestClient(app) as http:
        yield http


@pytest.mark.parametrize("path", ["/thread", "/loop"])
def test_a_trace_that_is_given_is_the_one_of_the_request(echo: TestClient, path: str) -> None:
    assert echo.get(path, headers={"traceparent": PARENT}).json()["trace_id"] == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT[:-1],
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        "00-13812345678-00f067aa0ba902b7-01",
        "打给 13812345678".encode(),
        # A landline number, to the mask.
        "00-09064139221ce34e8423fa5bdc009da5-00f067aa0ba902b7-01",
        "x" * 10_000,
    ],
)
def test_a_trace_that_is_malformed_is_replaced(echo: TestClient, parent: str | bytes) -> None:
    found = echo.get("/thread", headers={"traceparent": parent}).json()["trace_id"]
    assert len(found) == 32
    assert int(found, 16)
    assert found not in (TRACE, "09064139221ce34e8423fa5bdc009da5")


def test_two_requests_are_two_traces_and_outside_there_is_none(echo: TestClient) -> None:
    assert echo.get("/loop").json() != echo.get("/loop").json()
    assert tracing.current_trace_id() is None


@pytest.mark.parametrize("request_id", ["1", "abc-123", "01HXYZ:7/3.a_b=+", "a" * 128])
def test_a_good_request_id_is_echoed_on_every_answer(calm: Service, request_id: str) -> None:
    headers = {"X-Request-ID": request_id}
    answers = [
        calm.http.get("/healthz", headers=headers),
        calm.http.get("/nowhere", headers=headers),
        calm.http.post("/classify", content=b"{", headers=headers | {"Content-Type": "application/json"}),
        calm.http.post("/classify", content=b"", headers=headers | {"Content-Length": "99999999999"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 400, 413]
    assert [answer.headers["x-request-id"] for answer in answers] == [request_id] * 4


@pytest.mark.parametrize("request_id", ["", " ", "a b", "a" * 129, "-x", "a\tb", 'a"b', "<script>", "号".encode()])
def test_a_bad_request_id_is_replaced(calm: Service, request_id: str | bytes) -> None:
    answer = calm.http.get("/healthz", headers={"X-Request-ID": request_id})
    assert len(answer.headers["x-request-id"]) == 32


@pytest.fixture
def access() -> Iterator[StringIO]:
    """The lines of access as a process writes them."""
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.formatter("json"))
    logger = logging.getLogger("app.access")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield out
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_the_line_of_access_tells_the_route_and_never_the_path(calm: Service, access: StringIO) -> None:
    calm.http.get(f"{LOOP}/questions/13812345678?limit=13812345678", headers={"traceparent": PARENT})
    calm.http.get("/13812345678")
    first, second = map(json.loads, access.getvalue().splitlines())
    assert {name: first[name] for name in ("event", "method", "route", "status", "trace_id", "level")} == {
        "event": "request",
        "method": "GET",
        "route": f"{LOOP}/questions/{{question_id}}",
        "status": 404,
        "trace_id": TRACE,
        "level": "debug",
    }
    assert first["duration_ms"] > 0
    assert (second["route"], second["status"]) == ("none", 404)
    assert "13812345678" not in access.getvalue()


def test_an_error_in_a_request_is_logged_with_its_ids(calm: Service, access: StringIO) -> None:
    logger = logging.getLogger("app.api.problems")
    handler = logging.getLogger("app.access").handlers[-1]
    logger.addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calm.services.runtime, "find", lambda _: 1 / 0)
            answer = calm.http.post("/classify", json={"text": "x"}, headers={"traceparent": PARENT})
    finally:
        logger.removeHandler(handler)
    assert answer.status_code == 500
    assert [json.loads(line)["trace_id"] for line in access.getvalue().splitlines()] == [TRACE] * 2
    assert "ZeroDivisionError" in access.getvalue()
