"""`intentloop labels worth`: what the curve says, as text, as JSON, as a picture."""

from pathlib import Path

import pytest

from app.db.session import UnitOfWork, connect
from app.simulation import plot
from tests.builders import make_version
from tests.cli.conftest import Run


@pytest.fixture
def with_versions(migrated: Run, empty_folder: Path) -> Run:
    """Eight versions on a law, the last three of which answer alike."""
    work = UnitOfWork(connect(f"sqlite:///{empty_folder / 'data' / 'intentloop.db'}"))
    for labels in range(100, 900, 100):
        value = 0.92 - 2.4 * labels**-0.5
        told = {
            "gold": {"count": 300, "macro_f1": {"value": value, "low": value - 0.03, "high": value + 0.03}},
            "stability": {"kappa": 0.992 if labels > 500 else 0.9, "sample": 500, "against": "default-v0"},
        }
        work(make_version, train_count=labels, evaluation=told)
    work.engine.dispose()
    return migrated


def test_worth_tells_versions_labels_needed_gain_and_the_sign_to_stop(with_versions: Run) -> None:
    said = with_versions("labels", "worth", "--target", "0.87")
    assert said.status == 0
    assert "default-v8" in said.out
    assert "more labels (95 %:" in said.out
    assert "to reach macro-F1 0.87; the next 100 are worth +" in said.out
    assert "answer alike (κ 0.992, 0.992, 0.992)" in said.out


def test_worth_as_json_is_what_stats_tell(with_versions: Run) -> None:
    told = with_versions("labels", "worth", "--target", "0.87", "--json").json
    assert told["target"]["macro_f1"] == 0.87
    assert told["stop"]["stop"] is True
    assert len(told["points"]) == 8


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_worth_is_drawn(with_versions: Run, empty_folder: Path, suffix: str, magic: bytes) -> None:
    drawn = empty_folder / f"worth{suffix}"
    assert with_versions("labels", "worth", "--plot", drawn).status == 0
    assert drawn.read_bytes().startswith(magic)
    assert drawn.stat().st_size > 5_000


def test_the_same_versions_give_the_same_svg(with_versions: Run, empty_folder: Path) -> None:
    first, second = empty_folder / "a.svg", empty_folder / "b.svg"
    with_versions("labels", "worth", "--plot", first)
    with_versions("labels", "worth", "--plot", second)
    assert first.read_bytes() == second.read_bytes()


def test_a_domain_without_versions_says_what_is_missing_and_draws_what_there_is(
    migrated: Run, empty_folder: Path
) -> None:
    said = migrated("labels", "worth", "--plot", empty_folder / "a.svg", "--target", "0.9")
    assert said.status == 0
    assert "there are 0" in said.out
    assert (empty_folder / "a.svg").stat().st_size > 1_000


@pytest.mark.parametrize("target", ["0", "1.5", "nan", "much"])
def test_a_target_that_is_no_macro_f1_is_refused(migrated: Run, target: str) -> None:
    assert migrated("labels", "worth", "--target", target).status == 2


def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_read(
    migrated: Run, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert migrated("labels", "worth", "--plot", empty_folder / "a.gif").status == 2
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    said = migrated("labels", "worth", "--plot", empty_folder / "a.svg")
    assert said.status == 2
    assert "intentloop[plot]" in said.err


def test_an_unknown_domain_is_refused(migrated: Run) -> None:
    said = migrated("labels", "worth", "--domain", "nowhere")
    assert (said.status, len(said.sentences)) == (1, 1)
