"""The real application on a fresh database: in this process with its lifespan, or as a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.api.dependencies import PREFIX, Services
from app.db.tables import Domain, Label
from app.intent.taxonomy import parse_taxonomy
from app.main import create_app
from app.services import activations, domains, taxonomy
from app.settings import Settings
from tests.builders import make_version
from tests.conftest import Databases
from tests.servers import free_port
from tests.serving.artifacts import LABELS, Artifact, train

LOOP = PREFIX
SECRET = "a secret of the tests, long enough"


@dataclass(frozen=True)
class Service:
    """The application behind a client; `services` are its parts, for what HTTP does not show."""

    http: TestClient
    settings: Settings

    @property
    def services(self) -> Services:
        found: Services = self.http.app.state.services  # type: ignore[attr-defined]
        return found

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return self.http.get(path, params=parameters)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.http.post(path, json=body, **more)

    def classify(self, text: str = "手机开不了机", **fields: Any) -> dict[str, Any]:
        answer = self.post("/classify", {"text": text, **fields})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def log(self, question: str, **fields: Any) -> str:
        """Log a prediction made elsewhere; the id of its question."""
        answer = self.post(f"{LOOP}/questions", {"question": question, **fields})
        assert answer.status_code == 201, answer.text
        question_id: str = answer.json()["question_id"]
        return question_id

    def put_taxonomy(self, *labels: str, domain: str = "default") -> list[dict[str, Any]]:
        answer = self.http.put(f"{LOOP}/taxonomy", params={"domain": domain}, json=list(labels or LABELS))
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["labels"]
        return found

    def label(self, question_id: str, label: str, labeler_id: str = "ana", **fields: Any) -> httpx.Response:
        body = {"correct_intent": [label], "labeler_id": labeler_id, **fields}
        return self.post(f"{LOOP}/questions/{question_id}/label", body)

    def wait_for(self, probe: Callable[[], Any], seconds: float = 5.0) -> Any:
        return wait_for(probe, seconds)


def wait_for(probe: Callable[[], Any], seconds: float = 5.0) -> Any:
    """What the probe gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.02)
    return found


@contextmanager
def served(url: str, folder: Path, **changes: Any) -> Iterator[Service]:
    """The application with its lifespan, in this process."""
    values: dict[str, Any] = {
        "data_dir": folder / "data",
        "database_url": url,
        "secret_key": SECRET,
        "poll_seconds": 0.05,
    }
    settings = Settings(_env_file=None, **(values | changes))
    # What the application does not answer is a failure of the test, not an exception in it.
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        yield Service(http, settings)


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path) -> Iterator[Service]:
    with served(sqlite_url, tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def _shared(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("calm")
    with served(databases.fresh("sqlite", folder), folder) as running:
        running.put_taxonomy()
        yield running


@pytest.fixture
def calm(_shared: Service) -> Iterator[Service]:
    """One service with three labels for all requests that are refused.

    Tests run in any order: one that changed a label or a domain would fail another, so each is looked at.
    """
    before = _shared.services.work.read(_configured)
    yield _shared
    assert _shared.services.work.read(_configured) == before, "this test changed what others share"


def _configured(session: Session) -> list[list[Any]]:
    """The rows of every domain and label."""
    tables = (Domain.__table__, Label.__table__)
    return [list(session.execute(select(table).order_by(table.c.id))) for table in tables]


@pytest.fixture
def any_service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    """The application on each kind of database."""
    with served(database_url, tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Trained for the label ids of a fresh SQLite database."""
    return train(tmp_path_factory.mktemp("artifact"), (1, 2, 3))


@pytest.fixture
def service_with_model(service: Service, artifact: Artifact) -> Service:
    """A service that has labels and answers with a model, version `default-v1`."""
    install(service, artifact)
    return service


def install(service: Service, artifact: Artifact) -> None:
    """Register an artifact as a version of the domain `default`, activate it, and wait until it answers."""
    artifact.installed_in(service.settings.artifacts)

    def activate(session: Session) -> None:
        domain = domains.locked(session, "default")
        labels = taxonomy.replace(session, domain, parse_taxonomy(list(LABELS)))
        assert tuple(label.id for label in labels) == artifact.label_ids
        version = make_version(session, artifact_digest=artifact.digest, threshold=0.7)
        activations.activate(session, version.version, by="test", reason="test")

    service.services.work(activate)
    # Not a promise of time: the first version reads the dictionary, on a machine that may be busy.
    wait_for(lambda: service.classify("预热")["model_version"], 60)


@dataclass(frozen=True)
class Process:
    """A service in a process of its own."""

    http: httpx.Client
    popen: "subprocess.Popen[bytes]"
    log: Path


@contextmanager
def process(url: str, folder: Path, **settings: object) -> Iterator[Process]:
    """`intentloop serve` on a migrated database."""
    port, data = free_port(), folder / "process"
    data.mkdir(parents=True, exist_ok=True)
    given: dict[str, object] = {"DATA_DIR": data, "DATABASE_URL": url, "PORT": port, "SECRET_KEY": SECRET, **settings}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INTENTLOOP_")}
    environment |= {f"INTENTLOOP_{name}": str(value) for name, value in given.items()}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    log = data / "log"
    with log.open("wb") as out:
        popen = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"], env=environment, cwd=data, stdout=out, stderr=subprocess.STDOUT
        )
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
    try:
        with http:
            wait_for(lambda: popen.poll() is not None or _answers(http), 60)
            assert popen.poll() is None, log.read_text()
            yield Process(http, popen, log)
    finally:
        popen.terminate()
        try:
            popen.wait(timeout=20)
        finally:
            popen.kill()


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False
