"""The schema goes up, down and up again on every database, and is exactly what the tables say."""

from pathlib import Path

import pytest
from alembic import command
from alembic.util.exc import CommandError
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from app.db.schema import configuration, is_current, migrate
from app.db.session import UnitOfWork, connect
from app.db.tables import Base, ModelVersion
from app.services import domains
from tests.builders import make_labelled_texts


def _tables(engine: Engine) -> set[str]:
    return {name for name in inspect(engine).get_table_names() if name.startswith("intent_")}


def test_migrations_go_up_down_and_up_again_with_rows_in_the_tables(engine: Engine) -> None:
    make_labelled_texts(UnitOfWork(engine), {"甲": 3, "乙": 2})
    assert _tables(engine) == {table.name for table in Base.metadata.sorted_tables}

    migrate(engine, "base")
    assert _tables(engine) == set()
    assert not is_current(engine)

    migrate(engine)
    assert is_current(engine)
    UnitOfWork(engine)(domains.ensure_default)
    make_labelled_texts(UnitOfWork(engine), {"甲": 3, "乙": 2})


def test_migrated_schema_is_what_the_tables_say(engine: Engine) -> None:
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.check(config)
        except CommandError as error:
            pytest.fail(str(error))


def test_migrate_twice_changes_nothing(engine: Engine) -> None:
    migrate(engine)
    migrate(engine)
    assert is_current(engine)


def test_every_constraint_has_an_explicit_name() -> None:
    for table in Base.metadata.sorted_tables:
        for constraint in table.constraints:
            assert constraint.name, f"{table.name}: {constraint}"


def test_database_itself_allows_one_active_version_per_domain(engine: Engine, work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2})

    def insert(session, name: str, active: bool | None) -> None:
        domain = domains.find(session, "default")
        session.add(
            ModelVersion(
                domain_id=domain.id,
                version=name,
                recipe="ngram",
                model_path="x",
                artifact_digest="0" * 64,
                is_active=active,
                status="passed",
                evaluation={},
                threshold=0.5,
            )
        )

    work(insert, "v1", True)
    work(insert, "v2", None)
    work(insert, "v3", None)
    with pytest.raises(DBAPIError):
        work(insert, "v4", True)
    with pytest.raises(DBAPIError):
        work(insert, "v5", False)


def test_mysql_tables_hold_every_character_and_compare_bytes(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("a question about servers")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO intent_domains (name, task, keep_text, gate, recipe, taxonomy_version,"
                " epoch, batch_seq, version_seq, created_at) VALUES "
                "('é🙂', 'single_label', true, 'auto', 'ngram', 0, 0, 0, 0, '2026-01-01 00:00:00'),"
                "('e🙂', 'single_label', true, 'auto', 'ngram', 0, 0, 0, 0, '2026-01-01 00:00:00')"
            )
        )
        names = set(connection.execute(text("SELECT name FROM intent_domains")).scalars())
    assert {"é🙂", "e🙂"} <= names


def test_two_processes_may_migrate_a_new_sqlite_file_at_once(tmp_path: Path) -> None:
    import subprocess
    import sys

    environment = {"INTENTLOOP_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    runs = [
        subprocess.Popen([sys.executable, "-m", "app", "migrate"], env=environment, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0, 0], outputs
    engine = connect(f"sqlite:///{tmp_path / 'intentloop.db'}")
    assert is_current(engine)
    engine.dispose()
