import pytest

from bench.choice import chosen


def test_without_a_choice_all_parts_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTENTLOOP_BENCH_ONLY", raising=False)
    assert chosen(("sqlite", "mariadb")) == ["sqlite", "mariadb"]


def test_what_is_named_is_run_and_of_other_kinds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTENTLOOP_BENCH_ONLY", "mariadb,1")
    assert chosen(("sqlite", "mariadb")) == ["mariadb"]
    assert chosen(("1", "2")) == ["1"]
    assert chosen(("ngram", "head")) == ["ngram", "head"]
