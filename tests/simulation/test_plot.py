"""Learning curves as pictures."""

import builtins

import pytest

from app.simulation import plot
from app.simulation.curve import Curve, Point, Scores
from app.simulation.plot import PlotUnavailable, check_plot, draw, draw_strategies
from app.simulation.strategy_replay import Steps
from app.simulation.strategy_report import mean_curve

CURVE = Curve([Point(100, Scores(0.6, 0.5), "v1"), Point(200, Scores(0.8, 0.75), "v2")])


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".PDF", b"%PDF")])
def test_draw_writes_the_kind_that_the_name_says(tmp_path, suffix, magic):
    path = tmp_path / f"curve{suffix}"
    draw(CURVE, path, title="train.jsonl", test_size=667)
    assert path.read_bytes().startswith(magic)


def test_the_same_curve_gives_the_same_svg(tmp_path):
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw(CURVE, first, title="t", test_size=1)
    draw(CURVE, second, title="t", test_size=1)
    assert first.read_bytes() == second.read_bytes()


def test_a_curve_without_points_is_an_empty_plot(tmp_path):
    draw(Curve(), tmp_path / "a.svg", title="t", test_size=1)
    assert (tmp_path / "a.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "message"), [("a.gif", "not as .gif"), ("a", "a bare name"), ("no/a.svg", "no folder")]
)
def test_a_plot_that_cannot_be_written_is_refused_beforehand(tmp_path, name, message):
    with pytest.raises(PlotUnavailable, match=message):
        check_plot(tmp_path / name)


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    with pytest.raises(PlotUnavailable, match=r"pip install 'intentloop\[plot\]'"):
        check_plot(tmp_path / "a.svg")


def test_matplotlib_is_not_loaded_before_a_plot_is_drawn(monkeypatch):
    import importlib.util

    loaded = []
    original = builtins.__import__

    def watch(name, *rest, **options):
        loaded.append(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", watch)
    # A copy of its own: loaded anew in place, its errors would be others than those that everybody else catches.
    spec = importlib.util.spec_from_file_location("plot_once_more", plot.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert not [name for name in loaded if name.startswith("matplotlib")]


def test_strategies_are_drawn_with_their_intervals_however_many_they_are(tmp_path):
    runs = [Steps((10, 20), (0.5, 0.8)), Steps((10, 20), (0.6, 0.7))]
    path = tmp_path / "strategies.svg"
    draw_strategies({f"s{number}": mean_curve(runs) for number in range(13)}, path, title="t", full=0.9)
    assert path.read_bytes().startswith(b"<?xml")
