import pytest

from bench.choice import chosen
from bench.result import CannotRun

DATABASES, MODELS = ("sqlite", "mariadb"), ("ngram", "head")


def test_without_a_choice_all_parts_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTENTLOOP_BENCH_ONLY", raising=False)
    assert chosen(DATABASES) == [["sqlite", "mariadb"]]


def test_what_is_named_is_run_and_of_other_kinds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTENTLOOP_BENCH_ONLY", "mariadb")
    assert chosen(DATABASES, MODELS) == [["mariadb"], ["ngram", "head"]]


def test_a_name_that_is_no_part_is_refused_and_the_parts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTENTLOOP_BENCH_ONLY", "mariadb,heda")
    with pytest.raises(CannotRun, match="heda; there are: sqlite, mariadb, ngram, head"):
        chosen(DATABASES, MODELS)
