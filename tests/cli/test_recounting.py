"""`intentloop recount`: says what was wrong, and repairs it."""

from sqlalchemy import text

from app.db.session import connect
from tests.cli.test_commands import import_world


def _spoil(folder, statement):
    engine = connect(f"sqlite:///{folder / 'data' / 'intentloop.db'}")
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_recount_repairs_what_is_wrong_and_then_finds_nothing(migrated, empty_folder):
    import_world(migrated, empty_folder)
    assert migrated("recount").out.strip() == "default: every number was right"
    _spoil(empty_folder, "UPDATE intent_counters SET value = value + 7 WHERE name = 'text'")
    wrong = migrated("recount", "--json").json["wrong"]["default"]
    assert wrong > 0
    assert migrated("recount", "--domain", "default", "--json").json == {"wrong": {"default": 0}}


def test_recount_of_an_unknown_domain_is_refused(migrated):
    said = migrated("recount", "--domain", "nowhere")
    assert (said.status, len(said.sentences)) == (1, 1)


def test_migrate_counts_what_the_release_before_did_not(migrated, empty_folder):
    import_world(migrated, empty_folder)
    _spoil(empty_folder, "DELETE FROM intent_counters")
    assert migrated("migrate").status == 0
    assert migrated("recount", "--json").json == {"wrong": {"default": 0}}
