"""Domains are made once, named safely, and described whole to the services that serve them."""

import pytest

from app.db.session import UnitOfWork
from app.db.tables import Domain
from app.errors import DomainExists, DomainNotFound, Malformed, TaskUnsupported
from app.services import activations, domains
from tests.builders import column, domain_id, make_version, set_taxonomy
from tests.services.together import in_threads


@pytest.mark.parametrize("name", ["a", "shop", "0-9_z", "x" * 48])
def test_create_takes_names_that_fit_into_paths_and_files(sqlite_work: UnitOfWork, name: str) -> None:
    assert sqlite_work(domains.create, name).name == name


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a b", "a/b", "..", "x" * 49, "店", "a\n"])
def test_create_refuses_other_names(sqlite_work: UnitOfWork, name: str) -> None:
    with pytest.raises(Malformed):
        sqlite_work(domains.create, name)


def test_create_refuses_a_multi_label_domain_until_it_can_be_trained(sqlite_work: UnitOfWork) -> None:
    with pytest.raises(TaskUnsupported, match="multi_label"):
        sqlite_work(domains.create, "many", task="multi_label")
    assert column(sqlite_work, Domain.name) == ["default"]


def test_of_many_who_create_one_domain_at_once_one_does(work: UnitOfWork) -> None:
    def create(_: int) -> str:
        try:
            return work(domains.create, "shop").name
        except DomainExists:
            return "exists"

    assert sorted(in_threads(6, create)) == ["exists"] * 5 + ["shop"]
    assert column(work, Domain.name) == ["default", "shop"]


def test_ensure_default_makes_it_once(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.ensure_default)
    assert column(sqlite_work, Domain.name) == ["default"]


def test_find_and_locked_know_no_other_name_and_do_not_repeat_it(sqlite_work: UnitOfWork) -> None:
    for look in (domains.find, domains.locked):
        with pytest.raises(DomainNotFound) as caught:
            sqlite_work(look, "13800138000")
        assert "13800138000" not in str(caught.value)
    with pytest.raises(DomainNotFound):
        sqlite_work.read(domains.release, 99)


def test_listing_and_states_name_every_domain_the_oldest_first(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "b", keep_text=False)
    sqlite_work(domains.create, "a")
    assert [domain.name for domain in sqlite_work.read(domains.listing)] == ["default", "b", "a"]
    assert [(state.name, state.keep_text) for state in sqlite_work.read(domains.states)] == [
        ("default", True),
        ("b", False),
        ("a", True),
    ]


def test_release_of_a_domain_without_a_model_has_no_version(sqlite_work: UnitOfWork) -> None:
    release = sqlite_work.read(domains.release, domain_id(sqlite_work))
    assert (release.version, release.artifact_digest, release.state.epoch) == (None, None, 0)


def test_release_holds_the_threshold_of_the_activation_and_the_paths_of_retired_labels(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    set_taxonomy(work, ["乙", "丙"])
    version = work(make_version, threshold=0.7)
    work(activations.activate, version.version, by="ana", reason="first")

    release = work.read(domains.release, domain_id(work))

    assert (release.version, release.version_id, release.threshold) == (version.version, version.id, 0.7)
    assert release.artifact_digest == version.artifact_digest
    assert sorted(release.paths.values()) == ["丙", "乙", "甲"]
    assert release.state.epoch == 1
