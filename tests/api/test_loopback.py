"""Without keys only programs of the machine itself are answered: no page, no proxy, no other address."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.api.loopback import host_name, is_loopback
from app.main import create_app
from app.services import keys
from app.services.audit import COMMAND_LINE
from app.settings import Settings
from tests.api.conftest import LOOP, SECRET, process, served
from tests.conftest import Databases


@pytest.fixture(scope="module")
def local(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client to whose requests the application sees a socket's address, as a server would set it."""
    folder = tmp_path_factory.mktemp("local")
    settings = Settings(
        _env_file=None, data_dir=folder / "data", database_url=databases.fresh("sqlite", folder), secret_key=SECRET,
        allowed_hosts=["intents.lan"], cors_origins=["https://console.example.com"],
    )  # fmt: skip
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8001", raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8001", "127.8.9.10:1", "localhost", "LOCALHOST:8001", "localhost.", "[::1]", "[::1]:8001",
     "intents.lan", "Intents.LAN:8001"],
)  # fmt: skip
def test_own_names_are_answered(local: TestClient, host: str) -> None:
    assert local.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8001", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhost.", "",
     "testserver", "192.168.1.7:8001", "0.0.0.0:8001", "[::]:8001", "[::1", "[::1]evil", "2130706433", "127.1",
     "localhost@evil.example", "::1", " ", "evil.example, localhost"],
)  # fmt: skip
def test_a_foreign_host_is_refused_everywhere(local: TestClient, host: str) -> None:
    for method, path in (
        ("GET", "/healthz"),
        ("GET", "/docs"),
        ("POST", f"{LOOP}/models/rollback"),
        ("GET", "/nowhere"),
    ):
        answer = local.request(method, path, headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_host"), path
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "intentloop keys create" in answer.json()["detail"]
        assert "evil" not in answer.text


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "x-forwarded-whatever", "Forwarded",
               "X-Real-IP", "Via"],
)  # fmt: skip
def test_a_request_that_was_forwarded_is_refused(local: TestClient, header: str) -> None:
    for value in ("203.0.113.9", "127.0.0.1", "testclient", ""):
        answer = local.get("/healthz", headers={header: value})
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_host"), value


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:8001", 404), ("http://localhost:3000", 404), ("https://console.example.com", 404),
     ("https://evil.example", 403), ("null", 403), ("", 403), ("http://127.0.0.1.evil.example", 403),
     ("http://[", 403), ("http://[::1]:8001", 404), ("evil.example://localhost/x", 403)],
)  # fmt: skip
def test_a_page_of_another_site_changes_nothing(local: TestClient, origin: str, status: int) -> None:
    """A browser sends such a POST without asking first: only its answer would be kept from the page."""
    answer = local.post(f"{LOOP}/models/nowhere-v1/activate", headers={"Origin": origin})
    assert answer.status_code == status, answer.text


def test_a_socket_that_others_can_reach_is_refused_whatever_the_host_says(local: TestClient) -> None:
    with TestClient(local.app, base_url="http://192.168.1.7:8001") as client:
        for host in ("localhost", "192.168.1.7:8001", "testserver"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 403


def test_a_request_of_this_process_is_answered(local: TestClient) -> None:
    assert TestClient(local.app).get("/healthz").status_code == 200
    assert TestClient(local.app).get("/healthz", headers={"Host": "evil.example"}).status_code == 403


def test_with_keys_the_host_is_nobodys_business(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path) as service:
        _, credential = service.services.work(keys.create, "admin", by=COMMAND_LINE)
        service.services.keys.refresh()
        headers = {"Host": "intents.example.com", "X-Forwarded-For": "203.0.113.9", "X-API-Key": credential}
        assert service.http.get(f"{LOOP}/stats", headers=headers).status_code == 200
        assert service.http.get(f"{LOOP}/stats", headers={**headers, "X-API-Key": "x"}).status_code == 401


def test_a_service_for_others_needs_a_key_and_then_asks_for_it(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path) as service:
        _, credential = service.services.work(keys.create, "admin", by=COMMAND_LINE)
    with process(sqlite_url, tmp_path, HOST="0.0.0.0") as running:
        assert running.http.get(f"{LOOP}/stats").status_code == 401
        assert running.http.get(f"{LOOP}/stats", headers={"X-API-Key": credential}).status_code == 200


def test_a_real_socket_is_asked_by_its_own_names(sqlite_url: str, tmp_path: Path) -> None:
    with process(sqlite_url, tmp_path) as running:

        def status(**headers: str) -> int:
            return running.http.get("/healthz", headers=headers).status_code

        assert status() == 200
        assert status(Host="testserver") == status(Host="evil.example") == 403
        assert (
            running.http.get("/healthz", headers={"X-Forwarded-For": "testclient", "Host": "testclient"}).status_code
            == 403
        )
        assert "there is no key" in running.log.read_text()


@pytest.mark.parametrize(
    ("authority", "name"),
    [("A.B:80", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("[::1", ""), ("", ""), ("a.", "a"), (":80", "")],
)
def test_host_name_is_the_host_without_its_port(authority: str, name: str) -> None:
    assert host_name(authority) == name


def test_loopback_is_what_never_leaves_the_machine() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.1", "", "::ffff:10.0.0.1")))


def test_the_document_is_there_before_anything_has_started() -> None:
    assert TestClient(create_app(Settings(_env_file=None))).get("/openapi.json").status_code == 200
