"""Labels keep their ids for ever; who names one that is not there is told which are near."""

import pytest
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Domain, Label
from app.errors import LevelsInsteadOfLabel, Malformed, TaxonomyEmpty, TooManyLabels, UnknownLabel
from app.services import domains, taxonomy
from tests.builders import column, domain_of, set_taxonomy


def _ids(work: UnitOfWork) -> dict[str, tuple[int, str]]:
    return {path: (id_, status) for path, id_, status in column(work, Label.path, Label.id, Label.status)}


def _resolve(session: Session, *intents: str) -> str:
    return taxonomy.resolve(session, domain_of(session), intents).path


def test_a_label_that_leaves_is_retired_and_returns_as_the_same_one(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    first = _ids(work)

    set_taxonomy(work, ["乙", "丙"])
    second = _ids(work)
    assert second["甲"] == (first["甲"][0], "retired")
    assert second["乙"] == first["乙"]

    set_taxonomy(work, ["甲", "乙", "丙"])
    assert _ids(work) == second | first


def test_the_label_for_everything_else_never_leaves(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", taxonomy.OTHER])
    set_taxonomy(sqlite_work, ["甲"])
    assert _ids(sqlite_work)[taxonomy.OTHER][1] == "active"


def test_active_labels_stand_in_the_order_of_the_taxonomy(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙", "丙"])
    set_taxonomy(sqlite_work, ["丙", "甲"])

    def paths(session: Session) -> tuple[list[str], int]:
        domain = domain_of(session)
        return [label.path for label in taxonomy.active(session, domain.id)], len(taxonomy.listing(session, domain.id))

    assert sqlite_work.read(paths) == (["丙", "甲"], 3)


def test_version_grows_only_when_the_set_of_labels_changes(sqlite_work: UnitOfWork) -> None:
    def version() -> int:
        return int(column(sqlite_work, Domain.taxonomy_version)[0])

    set_taxonomy(sqlite_work, ["甲", "乙"])
    assert version() == 1
    set_taxonomy(sqlite_work, ["乙", "甲"])
    assert version() == 1
    set_taxonomy(sqlite_work, ["乙"])
    assert version() == 2


def test_add_makes_a_label_wakes_a_retired_one_and_leaves_an_active_one(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙"])
    set_taxonomy(sqlite_work, ["甲"])
    before = _ids(sqlite_work)

    def add(session: Session) -> list[tuple[int, int]]:
        domain = domains.locked(session, "default")
        return [(taxonomy.add(session, domain, path).id, domain.taxonomy_version) for path in ("甲", "乙", "丙")]

    (_, first), (woken, second), (_, third) = sqlite_work(add)
    assert (first, second, third) == (2, 3, 4)
    assert woken == before["乙"][0]
    assert {path for path, (_, status) in _ids(sqlite_work).items() if status == "active"} == {"甲", "乙", "丙"}


def test_resolve_finds_an_active_label_by_its_path(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["硬件故障 > 电源问题 > 无法开机", "退款"])
    assert sqlite_work.read(_resolve, "硬件故障 > 电源问题 > 无法开机") == "硬件故障 > 电源问题 > 无法开机"


def test_resolve_names_the_near_labels_for_an_unknown_one(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["硬件故障 > 电源问题 > 无法开机", "硬件故障 > 屏幕问题 > 花屏", "退款"])
    with pytest.raises(UnknownLabel) as caught:
        sqlite_work.read(_resolve, "硬件故障 > 电源问题 > 不能开机")
    assert caught.value.details["near"][0] == "硬件故障 > 电源问题 > 无法开机"
    assert "退款" not in caught.value.details["near"]


def test_resolve_refuses_a_retired_label(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙"])
    set_taxonomy(sqlite_work, ["甲"])
    with pytest.raises(UnknownLabel):
        sqlite_work.read(_resolve, "乙")


def test_resolve_tells_levels_from_several_labels(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["硬件故障 > 无法开机", "退款", "换货"])
    with pytest.raises(LevelsInsteadOfLabel) as caught:
        sqlite_work.read(_resolve, "硬件故障", "无法开机")
    assert caught.value.details["label"] == "硬件故障 > 无法开机"
    with pytest.raises(TooManyLabels, match="2 were sent"):
        sqlite_work.read(_resolve, "退款", "换货")


def test_resolve_refuses_no_label_at_all(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    with pytest.raises(Malformed, match="none was sent"):
        sqlite_work.read(_resolve)


@pytest.mark.parametrize("intents", [(), ("甲",), ("甲", "乙")])
def test_resolve_says_first_that_the_taxonomy_is_empty(sqlite_work: UnitOfWork, intents: tuple[str, ...]) -> None:
    with pytest.raises(TaxonomyEmpty):
        sqlite_work.read(_resolve, *intents)


def test_labels_that_differ_by_an_accent_or_case_are_two(work: UnitOfWork) -> None:
    set_taxonomy(work, ["cafe", "café", "Cafe", "🙂"])
    assert len(_ids(work)) == 4
    assert work.read(_resolve, "café") == "café"
