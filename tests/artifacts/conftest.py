"""One small real artifact, and a small S3 server that speaks the protocol over HTTP."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import missing
from tests.serving.artifacts import Artifact, train


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(tmp_path_factory.mktemp("artifact"), (1, 2, 3))


@pytest.fixture
def made(artifact: Artifact, tmp_path: Path) -> Path:
    """A copy as a trainer leaves it, to be published."""
    return copy(artifact, tmp_path / "made")


def copy(artifact: Artifact, folder: Path) -> Path:
    shutil.copytree(artifact.folder, folder)
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server with the bucket `intentloop`."""
    try:
        from boto3 import client
        from moto.server import ThreadedMotoServer
    except ImportError:
        missing("moto (pip install 'moto[s3]' flask flask-cors)")
    try:
        import obstore  # noqa: F401
    except ImportError:
        missing("obstore (the extra object-store)")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).create_bucket(Bucket="intentloop")
        yield address
    finally:
        server.stop()


S3 = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment in which the server is reached; its address."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (S3 | {"AWS_ENDPOINT_URL": s3_server}).items():
        monkeypatch.setenv(name, value)
    return s3_server
