"""The harness of flips: it accuses nobody wrongly, and it notices a build without its guards."""

from pathlib import Path

from bench.flipping.clients import Answer
from bench.flipping.verdict import Flip, History, judge
from bench.flips import Size, measure

SIGNATURES = {"v1": "one", "v2": "two", "v3": "three"}
HISTORY = History([Flip(1, "v1", 0.0, 0.1), Flip(2, "v2", 10.0, 10.1), Flip(3, "v1", 20.0, 20.1)])


def told(start: float, version: str | None, *, connection: int = 0, status: int = 200, label: str = "") -> Answer:
    label = label or SIGNATURES.get(version or "", "")
    return Answer(connection, start, start + 0.01, status, label, version)


def counts(*answers: Answer, failures: int = 0) -> tuple[int, int, int, int]:
    verdict = judge(answers, HISTORY, SIGNATURES, failures=failures)
    return verdict.errors, verdict.wrong_signatures, verdict.stale, verdict.went_back


def test_answers_of_what_was_active_within_a_second_are_right() -> None:
    for moment, version in [(5, "v1"), (11.0, "v1"), (9.995, "v2"), (21.0, "v2"), (22, "v1")]:
        assert counts(told(moment, version)) == (0, 0, 0, 0)


def test_answer_of_a_version_that_was_over_for_more_than_a_second_is_stale() -> None:
    assert counts(told(11.2, "v1")) == (0, 0, 1, 0)
    assert counts(told(9.0, "v2")) == (0, 0, 1, 0)
    assert counts(told(5, "v3")) == (0, 0, 1, 0)


def test_label_of_another_artifact_is_a_wrong_signature() -> None:
    assert counts(told(5, "v1", label="two")) == (0, 1, 0, 0)


def test_error_and_missing_version_and_broken_connection_are_errors() -> None:
    assert counts(told(5, "v1", status=503), told(6, None), failures=2) == (4, 0, 0, 0)


def test_worker_that_went_back_is_seen_by_its_connection_alone() -> None:
    forward_and_back = [told(10.05, "v2"), told(10.5, "v1")]
    assert counts(*forward_and_back) == (0, 0, 0, 1)
    two_workers = [told(10.05, "v2"), told(10.5, "v1", connection=1)]
    assert counts(*two_workers) == (0, 0, 0, 0)
    # The same version may be the one of a later flip.
    assert counts(told(20.05, "v2"), told(20.5, "v1")) == (0, 0, 0, 0)


def test_build_without_the_digest_check_is_seen_to_answer_with_a_damaged_version(tmp_path: Path) -> None:
    size = Size(rounds=0, flips=0, requests=0, steady=50)
    seen, _ = measure(tmp_path, f"sqlite:///{tmp_path / 'intentloop.db'}", size, broken="digest")
    assert seen.damaged is not None
    assert seen.damaged.errors == 0
    assert seen.damaged.wrong_signatures > 0


def test_build_without_the_epoch_check_is_seen_to_go_back(tmp_path: Path) -> None:
    size = Size(rounds=1, flips=30, requests=0, steady=50, pause_seconds=0.2)
    url = f"sqlite:///{tmp_path / 'intentloop.db'}"
    _, verdict = measure(tmp_path, url, size, broken="epoch", with_damage=False)
    assert verdict.errors == verdict.wrong_signatures == 0
    assert verdict.went_back > 0
