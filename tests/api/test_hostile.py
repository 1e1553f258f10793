"""Hostile input by hand, on every kind of database: a problem and a 4xx, or a proper answer; nothing stored half."""

import gzip
import json
import socket
import time
from typing import Any

import pytest
from sqlalchemy import text

from tests.api.conftest import LOOP, Process, Service, process, served
from tests.serving.artifacts import LABELS

JSON = {"Content-Type": "application/json"}

# Whole bodies for routes that take an object: each is refused, whatever the route.
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"{",
    "two values": b"{}{}",
    "a comma too many": b'{"text": "x",}',
    "single quotes": b"{'text': 'x'}",
    "NaN": b'{"text": NaN}',
    "Infinity": b'{"text": "x", "topk": Infinity}',
    "minus Infinity": b'{"text": "x", "unknown": -Infinity}',
    "a float that overflows": b'{"text": "x", "unknown": 1e400}',
    "a float of a million digits": b'{"text": "x", "unknown": 0.' + b"1" * 1_000_000 + b"}",
    "an integer beyond 64 bits": b'{"text": "x", "unknown": 9223372036854775808}',
    "a negative one": b'{"text": "x", "unknown": -9223372036854775809}',
    "an integer of a million digits": b'{"text": "x", "unknown": ' + b"9" * 1_000_000 + b"}",
    "900 deep": b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}",
    "900 deep in an unknown key": b'{"text": "x", "unknown": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    "a million deep": b"[" * 1_000_000,
    "invalid UTF-8": b'{"text": "\xff\xfe"}',
    "overlong UTF-8": b'{"text": "\xc0\x80"}',
    "UTF-8 of a surrogate": b'{"text": "\xed\xa0\x80"}',
    "UTF-16": '{"text": "x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"text": "x"}',
    "a raw control character": b'{"text": "\x00"}',
    "null": b"null",
    "a number": b"5",
    "a string": b'"text"',
    "a list": b"[]",
    "a list of lists": b"[[[]]]",
    "true": b"true",
    "gzip without saying so": gzip.compress(b'{"text": "x"}'),
    "a form": b"text=x",
}

# Texts that are odd but texts: each is answered, stored and read back.
TEXTS: dict[str, str] = {
    "a NUL": '"a\\u0000b"',
    "a lone high surrogate": '"a\\ud800"',
    "a lone low surrogate": '"\\udc00a"',
    "surrogates the wrong way round": '"\\udc00\\ud800"',
    "a pair": '"\\ud83d\\ude42"',
    "a capital I with a dot": '"İİİİ"',
    "a ligature of eighteen": '"\\ufdfa"',
    "zero-width joiners": '"a\\u200d\\u200bb"',
    "a direction override": '"\\u202eabc"',
    "combining marks without end": '"a' + "\\u0301" * 5000 + '"',
    "60 kB": '"' + "电" * 20_000 + '"',
    "emoji of four bytes": '"' + "🙂" * 15_000 + '"',
    "a quote and a backslash": '"\\"\\\\\'; DROP TABLE intent_texts; --"',
    "percent and braces": '"%s %(x)s {0} ${x} :x"',
    "line separators": '"a\\u2028b\\u2029c\\r\\nd"',
    "private use": '"\\ue000\\udbff\\udfff"',
}

STRINGS = [
    "\x00",
    "a\x00b",
    "\ud800",
    "\u200b",
    "x" * 100_000,
    "\ufdfa" * 300,
    "İ" * 300,
    "",
    " ",
    "\x1b[31m",
    "🙂" * 300,
]


def _rows(service: Service) -> dict[str, int]:
    tables = ("intent_user_questions", "intent_annotations", "intent_labels", "intent_domains",
              "intent_model_training_batches")  # fmt: skip
    engine = service.services.engine
    with engine.connect() as connection:
        return {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in tables}


def _is_problem(answer: Any, *statuses: int) -> None:
    assert answer.status_code in (statuses or range(400, 500)), (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert set(problem) >= {"type", "title", "status", "detail", "code"}
    assert len(answer.content) < 10_000


@pytest.fixture(scope="module")
def service(databases: Any, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """One application for the whole module on each kind of database: hostile input must leave it as it was."""
    folder = tmp_path_factory.mktemp("hostile")
    with served(databases.fresh(request.param, folder), folder) as running:
        running.put_taxonomy()
        running.log("ein Anfang", request_id="first")
        yield running


EVERYWHERE = pytest.mark.parametrize("service", ["sqlite", "postgresql", "mariadb"], indirect=True)

ROUTES = [
    ("POST", "/classify"),
    ("POST", "/classify/batch"),
    ("POST", f"{LOOP}/questions"),
    ("POST", f"{LOOP}/questions/x/label"),
    ("POST", f"{LOOP}/questions/x/skip"),
    ("POST", f"{LOOP}/questions/x/release"),
    ("POST", f"{LOOP}/domains"),
    ("POST", f"{LOOP}/batches"),
    ("POST", f"{LOOP}/keywords"),
    ("PUT", f"{LOOP}/taxonomy"),
]


@EVERYWHERE
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[path for _, path in ROUTES])
def test_body_that_is_none_is_a_problem_on_every_route(service: Service, method: str, path: str) -> None:
    before = _rows(service)
    for name, body in BODIES.items():
        answer = service.http.request(method, path, content=body, headers=JSON)
        if path.endswith("/taxonomy") and name == "a list of lists":
            continue
        try:
            _is_problem(answer, 400, 422)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
    assert _rows(service) == before


@EVERYWHERE
def test_odd_text_is_answered_stored_and_read_back(service: Service) -> None:
    for name, written in TEXTS.items():
        before = _rows(service)["intent_user_questions"]
        answer = service.http.post("/classify", content=f'{{"text": {written}}}'.encode(), headers=JSON)
        assert answer.status_code == 200, (name, answer.text)
        logged = service.http.post(f"{LOOP}/questions", content=f'{{"question": {written}}}'.encode(), headers=JSON)
        assert logged.status_code == 201, (name, logged.text)
        first, second = (
            service.get(f"{LOOP}/questions/{found['question_id']}").json()["question"]
            for found in (answer.json(), logged.json())
        )
        assert first == second
        assert "\x00" not in first
        assert first.encode()
        assert _rows(service)["intent_user_questions"] == before + 2


@EVERYWHERE
def test_hostile_string_in_any_field_is_never_a_failure_of_ours(service: Service) -> None:
    question = service.log("ein Ziel")
    rule = service.post(f"{LOOP}/keywords", {"keyword": "ziel", "intent": LABELS[0]}).json()["id"]
    bodies: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/classify", {"text": "x", "domain": 0, "request_id": 0, "user_id": 0}),
        ("POST", "/classify/batch", {"domain": 0, "items": [{"text": 0, "request_id": 0, "user_id": 0}]}),
        ("POST", f"{LOOP}/questions", {"question": "x", "intents": [0], "method": 0, "request_id": 0, "domain": 0,
                                       "user_id": 0, "model_version": 0, "asked_at": 0, "topk": [[0, 0.5]]}),
        ("POST", f"{LOOP}/questions/{question}/label",
         {"correct_intent": [0], "labeler_id": 0, "correct_time_intent": {0: 0}, "lease_token": 0,
          "proposed_label": 0}),
        ("POST", f"{LOOP}/questions/{question}/skip", {"labeler_id": 0, "reason": 0, "lease_token": 0}),
        ("POST", f"{LOOP}/questions/{question}/flag", {"labeler_id": 0, "reason": 0, "lease_token": 0}),
        ("POST", f"{LOOP}/questions/{question}/discard", {"labeler_id": 0, "reason": 0, "lease_token": 0}),
        ("POST", f"{LOOP}/labels/undo", {"labeler_id": 0, "count": 1, "domain": 0}),
        ("POST", f"{LOOP}/domains", {"name": 0, "task": 0, "gate": 0, "recipe": 0}),
        ("POST", f"{LOOP}/batches", {"domain": 0, "description": 0, "recipe": 0, "config": {0: 0}}),
        ("POST", f"{LOOP}/keywords", {"domain": 0, "keyword": 0, "intent": 0, "all_of": [0], "none_of": [0],
                                      "pattern": 0, "status": 0}),
        ("PATCH", f"{LOOP}/keywords/{rule}", {"keyword": 0, "intent": 0, "all_of": [0], "pattern": 0, "status": 0}),
        ("POST", f"{LOOP}/models/rollback", {"domain": 0, "reason": 0, "by": 0}),
        ("POST", f"{LOOP}/models/x/activate", {"reason": 0, "by": 0}),
    ]  # fmt: skip
    defaults = {"labeler_id": "ana", "correct_intent": ["其他"], "name": "x", "intent": LABELS[0], "keyword": "k"}
    for method, path, template in bodies:
        for field, shape in template.items():
            for hostile in STRINGS:
                filled = {k: v for k, v in template.items() if k in ("text", "question", "items") and k != field}
                body = {k: v for k, v in defaults.items() if k in template} | _filled(filled, "x") | {
                    field: _filled(shape, hostile)
                }  # fmt: skip
                sent = json.dumps(body).encode()
                answer = service.http.request(method, path, content=sent, headers=JSON)
                assert answer.status_code < 500, (path, field, hostile[:20], answer.text[:300])
                if answer.status_code >= 400:
                    _is_problem(answer)


def _filled(shape: Any, value: str) -> Any:
    if isinstance(shape, dict):
        return {(value if key == 0 else key): _filled(inner, value) for key, inner in shape.items()}
    if isinstance(shape, list):
        return [_filled(inner, value) for inner in shape]
    return value if isinstance(shape, int) and not isinstance(shape, bool) else shape


@EVERYWHERE
def test_hostile_path_query_and_header_is_never_a_failure_of_ours(service: Service) -> None:
    quoted = ["%00", "a%00b", "%ED%A0%80", "%FF", "%F0%9F%99%82", "..%2F..", "%252e", "'", "%27%20OR%201=1", "a" * 5000,
              "-1", "1.5", "9" * 30, "NaN", "%20", "%0d%0aX:y", "{}", "[]"]  # fmt: skip
    for value in quoted:
        for path in (
            f"{LOOP}/questions/{value}", f"{LOOP}/batches/{value}", f"{LOOP}/models/{value}",
            f"{LOOP}/stats?domain={value}", f"{LOOP}/taxonomy?domain={value}", f"{LOOP}/{value}", f"/{value}",
            f"{LOOP}/batches?cursor={value}", f"{LOOP}/models?limit={value}", f"{LOOP}/models?cursor={value}x",
            f"{LOOP}/questions/unlabeled?domain={value}", f"{LOOP}/questions/unlabeled?labeler_id={value}&limit=1",
            f"{LOOP}/questions/unlabeled?strategy={value}", f"{LOOP}/questions/unlabeled?lease_seconds={value}",
            f"{LOOP}/questions/unlabeled?{value}=1&{value}",
            f"{LOOP}/questions/flagged?cursor={value}x", f"{LOOP}/questions/disputed?cursor={value}x",
            f"{LOOP}/questions/disputed?domain={value}", f"{LOOP}/agreement?domain={value}",
        ):  # fmt: skip
            answer = service.http.get(path)
            assert answer.status_code < 500, (path, answer.text[:300])
            if answer.status_code >= 400:
                _is_problem(answer)
        for kind in ("label", "flag"):
            _is_problem(service.http.delete(f"{LOOP}/questions/{value}/{kind}?labeler_id={value}"))
        for path in (f"{LOOP}/batches/{value}/run", f"{LOOP}/models/{value}/activate"):
            answer = service.http.post(path)
            _is_problem(answer)
    for key in ("x" * 201, "a b", "", "\t", "é" * 200, "\x85", "%00", "a" * 200):
        for path, body in (("/classify", {"text": "x"}), (f"{LOOP}/questions", {"question": "x"})):
            headers = {b"Idempotency-Key": key.encode("latin-1")}
            answer = service.http.post(path, json=body, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code in (200, 201, 422), (key, answer.text)


@EVERYWHERE
def test_numbers_at_the_edges_are_refused_or_kept(service: Service) -> None:
    for number in (2**63 - 1, -(2**63), 1e308, -1e308, 5e-324, -0.0, 0.1 + 0.2):
        assert service.post(f"{LOOP}/batches", {"config": {"n": number}}).status_code in (409, 422)
        question = service.log("eine Zahl")
        labelled = service.label(question, "其他", correct_time_intent={"n": number})
        assert labelled.status_code == 200, (number, labelled.text)
        assert service.get(f"{LOOP}/questions/{question}").json()["correct_time_intent"] == {"n": number}
        assert service.label(question, "其他", supersedes=number).status_code in (409, 422)
    assert service.post(f"{LOOP}/models/rollback", {"epoch": 2**63 - 1}).status_code == 409


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_wrong_content_type_is_refused(service: Service) -> None:
    before = _rows(service)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "nonsense",
                 "application/xml", "text/json", "application/jsonx"):  # fmt: skip
        for path in ("/classify", "/classify/batch", f"{LOOP}/questions", f"{LOOP}/domains"):
            content = b'{"text": "x", "question": "x", "texts": ["x"], "name": "x"}'
            _is_problem(service.http.post(path, content=content, headers={"Content-Type": kind}), 422)
    assert _rows(service) == before


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_compressed_body_is_not_unpacked(service: Service) -> None:
    for encoding in ("gzip", "deflate", "br"):
        packed = gzip.compress(b'{"text": "' + b"x" * 50_000_000 + b'"}')
        answer = service.http.post("/classify", content=packed, headers=JSON | {"Content-Encoding": encoding})
        _is_problem(answer, 400)


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_last_of_two_equal_keys_counts(service: Service) -> None:
    answer = service.http.post("/classify", content=b'{"text": "a", "text": "b", "topk": 1}', headers=JSON)
    assert service.get(f"{LOOP}/questions/{answer.json()['question_id']}").json()["question"] == "b"


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_refusal_repeats_nothing_of_what_was_sent(service: Service) -> None:
    canary = "金丝雀"
    for body in ({"text": [canary]}, {"text": {canary: canary}}, {canary: canary}, {"text": "x", "topk": canary}):
        answer = service.post("/classify", body)
        _is_problem(answer, 422)
        assert canary not in answer.text
    answer = service.http.post("/classify", content=('{"text": ' + canary).encode(), headers=JSON)
    assert canary not in answer.text


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_clever_bulk_cannot_hold_up_the_others(service: Service) -> None:
    """Long texts that are slow to mask: the loop goes on answering beside them."""
    from concurrent.futures import ThreadPoolExecutor

    slow = {"texts": ["1-" * 10_000] * 15}
    with ThreadPoolExecutor(1) as pool:
        long_request = pool.submit(service.post, "/classify/batch", slow)
        waits = []
        while not long_request.done():
            start = time.monotonic()
            assert service.get("/healthz").status_code == 200
            waits.append(time.monotonic() - start)
        assert long_request.result().status_code == 200
    assert max(waits) < 2.0


@pytest.fixture(scope="module")
def small(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real server whose bodies may have 64 kB."""
    folder = tmp_path_factory.mktemp("small")
    with process(databases.fresh("sqlite", folder), folder, MAX_BODY_BYTES=65_536) as running:
        yield running


def test_declared_body_over_the_limit_is_answered_413(small: Process) -> None:
    assert small.http.post("/classify", json={"text": "x", "more": "y" * 60_000}).status_code == 200
    _is_problem(small.http.post("/classify", json={"text": "x", "more": "y" * 65_536}), 413)
    _is_problem(small.http.post("/classify", content=b"x" * 20_000_000, headers=JSON), 413)
    assert small.http.get("/healthz").status_code == 200


def test_chunked_body_over_the_limit_is_answered_413_before_it_ends(small: Process) -> None:
    address = (small.http.base_url.host, small.http.base_url.port or 80)
    head = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head)
        sent = 0
        connection.settimeout(0.05)
        answer = b""
        while not answer and sent < 5_000_000:
            connection.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            sent += 0x2000
            try:
                answer = connection.recv(4096)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
    assert sent < 1_000_000
    assert small.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"9" * 5000, b"0x10", b"", b"+5", b"99999999999999999999"])
def test_content_length_that_is_none_is_refused(small: Process, length: bytes) -> None:
    address = (small.http.base_url.host, small.http.base_url.port or 80)
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + length + b"\r\n\r\n{}")
        answer = connection.recv(4096)
    assert answer.split(b" ")[1][:1] == b"4"
    assert small.http.get("/healthz").status_code == 200
