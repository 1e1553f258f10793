"""A start while the database is away: what was served last serves, who was let in last is, and a return is noticed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.session import UnitOfWork, connect
from app.errors import SetupError
from app.services import activations, keys
from app.services.audit import COMMAND_LINE
from tests.api.conftest import Service, install, served, wait_for
from tests.builders import make_version
from tests.serving.artifacts import Artifact

# What is asked at a start.
TABLES = ("intent_domains", "intent_api_keys")


@contextmanager
def away(url: str) -> Iterator[None]:
    """The database does not answer what a start asks."""
    engine = connect(url)

    def rename(old: str, new: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    for table in TABLES:
        rename(table, f"away_{table}")
    try:
        yield
    finally:
        for table in TABLES:
            rename(f"away_{table}", table)
        engine.dispose()


@pytest.fixture
def left(sqlite_url: str, tmp_path: Path, artifact: Artifact) -> str:
    """The URL of a database whose service served a version to the holder of a key, and ended."""
    with served(sqlite_url, tmp_path) as service:
        install(service, artifact)
        wait_for(lambda: list((tmp_path / "data" / "last").glob("release-*.json")))
        wait_for(lambda: '"default-v1"' in (tmp_path / "data" / "last" / "release-1.json").read_text())
        _, credential = service.services.work(keys.create, "admin", by=COMMAND_LINE)
        wait_for(lambda: credential.split("_")[1] in (tmp_path / "data" / "last" / "keys.json").read_text())
    (tmp_path / "credential").write_text(credential)
    return sqlite_url


def version_of(service: Service) -> str | None:
    loaded = service.services.runtime.find("default")
    return None if loaded is None else loaded.release.version


def test_start_without_the_database_serves_what_was_served_last_to_whoever_was_let_in(
    left: str, tmp_path: Path, other_artifact: Artifact
) -> None:
    with away(left):
        context = served(left, tmp_path)
        service = context.__enter__()
        assert version_of(service) == "default-v1"
        assert service.services.keys.guarded
        assert service.services.keys.find((tmp_path / "credential").read_text()) is not None
        assert service.post("/classify", {"text": "你好"}).status_code == 401
    try:
        # It is back: what is wanted by now is followed.
        other_artifact.installed_in(service.settings.artifacts)

        def flip(session):
            version = make_version(session, artifact_digest=other_artifact.digest, threshold=0.7)
            activations.activate(session, version.version, by="test", reason="test")

        service.services.work(flip)
        wait_for(lambda: version_of(service) == "default-v2", 20)
    finally:
        context.__exit__(None, None, None)


def test_start_without_the_database_and_without_a_memory_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    with away(sqlite_url), pytest.raises(Exception, match="no such table"), served(sqlite_url, tmp_path):
        pass


def test_start_without_the_database_is_refused_where_the_settings_say_so(left: str, tmp_path: Path) -> None:
    with away(left), pytest.raises(Exception, match="no such table"), served(left, tmp_path, start_degraded=False):
        pass


def test_nobody_is_let_in_while_no_keys_are_known(left: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "last" / "keys.json").unlink()
    with away(left), served(left, tmp_path) as service:
        assert version_of(service) == "default-v1"
        assert service.services.keys.guarded
        assert service.services.keys.find((tmp_path / "credential").read_text()) is None


def test_command_starts_degraded_only_with_a_memory_and_never_open_to_others(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    from app.cli.running import _refuse_to_serve
    from app.settings import Settings

    def settings(folder: str = "data", **changes: object) -> Settings:
        gone = "postgresql://nobody@127.0.0.1:9/nothing"
        return Settings(_env_file=None, data_dir=tmp_path / folder, database_url=gone, **changes)

    _refuse_to_serve(settings())
    _refuse_to_serve(settings(host="0.0.0.0"))
    for refused in (settings("nothing"), settings(start_degraded=False)):
        with pytest.raises(OperationalError):
            _refuse_to_serve(refused)
    (tmp_path / "data" / "last" / "keys.json").unlink()
    _refuse_to_serve(settings())
    with pytest.raises(SetupError, match="nobody knows whether there is a key"):
        _refuse_to_serve(settings(host="0.0.0.0"))


def test_database_with_another_schema_is_no_outage(left: str, tmp_path: Path) -> None:
    from app.cli.running import _refuse_to_serve
    from app.settings import Settings

    engine = connect(left)
    UnitOfWork(engine)(lambda session: session.execute(text("UPDATE alembic_version SET version_num = 'x'")))
    engine.dispose()
    with pytest.raises(SetupError, match="another schema"):
        _refuse_to_serve(Settings(_env_file=None, data_dir=tmp_path / "data", database_url=left))


@pytest.fixture(scope="session")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from tests.serving.artifacts import train

    return train(tmp_path_factory.mktemp("other"), (1, 2, 3), seed=1)
