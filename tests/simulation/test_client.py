"""What counts as a failed request, against a server that answers what the test says."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from app.simulation.client import Client, LoopFailed, RequestFailed, wait_for
from app.simulation.service import free_port

ITEM = {"question_id": "q", "lease_token": "t"}


@pytest.fixture
def answering():
    """A client of a server that gives these (status, body) answers in turn, and what it was asked."""
    servers = []

    def start(*answers):
        waiting, asked = list(answers), []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                asked.append((self.command, self.path, json.loads(body) if body else None))
                status, content = waiting.pop(0)
                encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            do_GET = do_PUT = do_POST  # noqa: N815

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return Client(f"http://127.0.0.1:{server.server_port}"), asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_answer_is_no_failure(answering):
    client, asked = answering((200, {"label": "a"}))
    assert client.classify("text", train_allowed=False) == {"label": "a"}
    assert asked == [("POST", "/classify", {"text": "text", "domain": "default", "train_allowed": False})]
    assert (client.sent, client.failed) == (1, 0)


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 503])
def test_a_status_that_was_not_expected_is_a_failed_request(answering, status):
    client, _ = answering((status, {"code": "leased", "detail": "another labeler holds it"}))
    with pytest.raises(RequestFailed, match=f"answered {status}: another labeler holds it") as caught:
        client.label(ITEM, "a", labeler_id="me")
    assert (caught.value.status, caught.value.code) == (status, "leased")
    assert client.failed == 1
    assert client.failures == {f"POST /api/v1/model-tuning/questions/q/label: {status} leased": 1}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]"])
def test_an_error_that_is_no_problem_document_is_a_failed_request_too(answering, body):
    client, _ = answering((502, body))
    with pytest.raises(RequestFailed, match="answered 502: Bad Gateway"):
        client.stats()


def test_a_success_that_is_no_json_is_a_failed_request(answering):
    client, _ = answering((200, b"<html>"))
    with pytest.raises(RequestFailed, match="got no answer"):
        client.stats()
    assert client.failed == 1


def test_a_server_that_is_not_there_is_a_failed_request():
    client = Client(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RequestFailed, match="POST /classify got no answer"):
        client.classify("text")
    assert client.failures == {"POST /classify: ConnectError": 1}


def test_each_item_of_a_batch_without_an_answer_is_a_failed_request(answering):
    client, _ = answering((200, {"results": [{"label": "a"}, {"error": {"code": "text_refused"}}]}))
    assert len(client.classify_batch(["x", ""])) == 2
    assert client.failures == {"POST /classify/batch: item: text_refused": 1}


def test_a_batch_without_new_labels_is_expected_and_not_run(answering):
    client, asked = answering((409, {"code": "nothing_new"}))
    assert client.open_batch("rest") is None
    assert client.failed == 0
    assert len(asked) == 1


def test_a_batch_is_opened_and_run(answering):
    client, asked = answering((201, {"batch_id": "b1"}), (202, {}))
    assert client.open_batch("rest") == "b1"
    assert [path for _, path, _ in asked] == [
        "/api/v1/model-tuning/batches",
        "/api/v1/model-tuning/batches/b1/run",
    ]


def test_another_conflict_than_the_expected_one_is_a_failed_request(answering):
    client, _ = answering((409, {"code": "one_class"}))
    with pytest.raises(RequestFailed):
        client.open_batch("rest")


def test_waiting_ends_with_what_was_found():
    found = iter([None, None, "ready"])
    assert wait_for("it", lambda: next(found), seconds=5, every=0.001) == "ready"


def test_waiting_in_vain_says_what_for():
    with pytest.raises(LoopFailed, match="waited 0 s for the flip"):
        wait_for("the flip", lambda: None, seconds=0.01, every=0.001)
