"""What was answered is in the database once, whatever ended the service or the database; and a torture would notice."""

import json
from pathlib import Path

import pytest

from app.db.session import connect
from tests.conftest import Databases
from tests.torture import __main__ as torture
from tests.torture import kills, ledger
from tests.torture.ledger import Ledger
from tests.torture.load import load
from tests.torture.service import service
from tests.torture.victims import Sqlite

BROKEN = ("-m", "tests.torture.broken")


@pytest.fixture
def place(databases: Databases, tmp_path: Path) -> Sqlite:
    databases.fresh("sqlite", tmp_path)
    return Sqlite(tmp_path)


def test_killed_while_it_spools_and_started_again_every_answer_is_one_row(place: Sqlite, tmp_path: Path) -> None:
    told = Ledger()
    with service(tmp_path, place.url, LOG_PATIENCE_SECONDS=0.2) as served:
        served.start()
        with load(served.port, told, clients=4, seed=1):
            place.harm("locked")
            served.wait_for(lambda: sum(answer.logged == "spooled" for answer in told.answers) >= 30, 60)
            served.kill()
            place.heal()
            served.start()
            served.wait_for(lambda: told.answers[-1].logged == "db", 60)
        served.wait_until_whole()
        assert served.stop() == 0
    engine = connect(place.url)
    verdict = ledger.check(engine, told)
    engine.dispose()
    assert (verdict.lost, verdict.doubled, verdict.renamed, told.unforeseen) == (0, 0, 0, 0)
    assert verdict.rows >= len(told.answers) > 30
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_build_that_answers_before_the_commit_is_caught(place: Sqlite, tmp_path: Path) -> None:
    told = Ledger()
    with service(tmp_path, place.url, program=BROKEN) as served:
        served.start()
        with load(served.port, told, clients=4, seed=1):
            served.wait_for(lambda: len(told.answers) >= 30, 60)
            served.kill()
    engine = connect(place.url)
    verdict = ledger.check(engine, told)
    engine.dispose()
    assert verdict.lost > 0


def test_tortures_are_listed_and_what_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main([]) == 0
    assert {"kills", "outages"} <= {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert torture.main(["sleep"]) == 2
    assert "kills" in capsys.readouterr().err


def test_a_torture_reports_one_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.result import Bar, Result

    monkeypatch.setattr(kills, "run", lambda *, seed, **_: Result({"n": seed}, {"lost": Bar(1, at_most=0)}))
    report = tmp_path / "report"
    assert torture.main(["kills", "--quick", "--seed", "7", "--json", str(report)]) == 1
    line = json.loads(report.read_text())
    assert line == json.loads(capsys.readouterr().out)
    assert (line["torture"], line["quick"], line["seed"], line["figures"]) == ("kills", True, 7, {"n": 7})
    assert line["bars"]["lost"] == {"value": 1, "bar": 0, "side": "at_most", "holds": False}
