"""Exactly one version serves at every moment, each flip is one step of the epoch, and there is always a way back."""

from collections.abc import Sequence

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Domain, ModelActivation, ModelVersion
from app.errors import NotFound, NothingToRollBack, StaleEpoch, VersionUnusable
from app.services import activations, domains, versions
from app.services.activations import Pairing
from tests.builders import column, domain_id, domain_of, make_version
from tests.services.together import PROCESSES, in_processes


def _make(work: UnitOfWork, count: int) -> list[str]:
    """So many versions with thresholds 0.1, 0.2, …"""
    return [work(make_version, threshold=(number + 1) / 10).version for number in range(count)]


def _activate(work: UnitOfWork, version: str, **changes: object) -> ModelActivation:
    return work(activations.activate, version, **({"by": "ana", "reason": "try"} | changes))


def _rollback(work: UnitOfWork) -> tuple[str, float]:
    activation = work(activations.rollback, "default", by="ana", reason="worse")
    return work.read(lambda session: session.get_one(ModelVersion, activation.version_id).version), activation.threshold


def _active(work: UnitOfWork) -> list[str]:
    """The versions that are marked active; the domain's pointer must name the same."""

    def read(session: Session) -> list[str]:
        marked = session.scalars(select(ModelVersion).where(ModelVersion.is_active.is_(True))).all()
        pointer = domain_of(session).active_version_id
        assert [version.id for version in marked] == ([pointer] if pointer else [])
        return [version.version for version in marked]

    return work.read(read)


def _status(work: UnitOfWork, version: str) -> tuple[str, str | None]:
    row = work.read(versions.find, version)
    return row.status, row.reason


def test_a_flip_moves_pointer_mark_and_epoch_together(work: UnitOfWork) -> None:
    first, second = _make(work, 2)
    assert _active(work) == []
    for epoch, version in enumerate([first, second], start=1):
        activation = _activate(work, version, reason="r" * 300)
        assert (activation.epoch, activation.kind, activation.activated_by) == (epoch, "activate", "ana")
        assert len(activation.reason) == 255
        assert _active(work) == [version]
        assert work.read(versions.find, version).activated_at is not None
    assert column(work, ModelActivation.epoch, ModelActivation.threshold) == [(1, 0.1), (2, 0.2)]
    assert column(work, Domain.epoch) == [2]


def test_activating_the_active_version_changes_nothing(sqlite_work: UnitOfWork) -> None:
    (version,) = _make(sqlite_work, 1)
    first = _activate(sqlite_work, version)
    assert _activate(sqlite_work, version).id == first.id
    assert column(sqlite_work, Domain.epoch) == [1]


def test_who_saw_another_epoch_is_refused(sqlite_work: UnitOfWork) -> None:
    first, second = _make(sqlite_work, 2)
    _activate(sqlite_work, first, seen_epoch=0)
    with pytest.raises(StaleEpoch) as caught:
        _activate(sqlite_work, second, seen_epoch=0)
    assert caught.value.details == {"epoch": 1}
    with pytest.raises(StaleEpoch):
        sqlite_work(activations.rollback, "default", by="ana", reason="x", seen_epoch=7)
    assert _active(sqlite_work) == [first]


def test_a_flip_that_read_an_old_epoch_is_refused_even_without_the_lock(work: UnitOfWork) -> None:
    first, second = _make(work, 2)
    stale = work.read(domain_of)
    _activate(work, first)

    def flip(session: Session) -> None:
        version = versions.find(session, second)
        activations.flip(session, session.merge(stale, load=False), version, Pairing(0.5), by="ana", reason="late")

    with pytest.raises(StaleEpoch):
        work(flip)
    assert _active(work) == [first]


def test_a_refused_version_needs_force_and_a_failed_one_is_never_served(sqlite_work: UnitOfWork) -> None:
    refused = sqlite_work(make_version, status="refused", reason="worse on gold.").version
    failed = sqlite_work(make_version, status="failed", reason="corrupt").version
    with pytest.raises(VersionUnusable, match="worse on gold"):
        _activate(sqlite_work, refused)
    for force in (False, True):
        with pytest.raises(VersionUnusable, match="corrupt"):
            _activate(sqlite_work, failed, force=force)
    _activate(sqlite_work, refused, force=True)
    assert _active(sqlite_work) == [refused]


def test_an_unknown_version_is_not_found(sqlite_work: UnitOfWork) -> None:
    with pytest.raises(NotFound):
        _activate(sqlite_work, "default-v9")
    with pytest.raises(NotFound):
        sqlite_work.read(lambda session: activations.current(session, domain_of(session)))


def test_rollback_goes_back_one_more_each_time_and_restores_the_threshold(work: UnitOfWork) -> None:
    first, second, third = _make(work, 3)
    for version in (first, second, third):
        _activate(work, version)

    assert _rollback(work) == (second, 0.2)
    assert _active(work) == [second]
    assert _rollback(work) == (first, 0.1)
    with pytest.raises(NothingToRollBack):
        _rollback(work)

    assert column(work, ModelActivation.epoch, ModelActivation.kind) == [
        (1, "activate"),
        (2, "activate"),
        (3, "activate"),
        (4, "rollback"),
        (5, "rollback"),
    ]
    assert _status(work, third) == ("rolled_back", "rolled back by ana: worse")
    assert _status(work, first) == ("passed", None)


def test_rollback_restores_the_threshold_of_the_activation_not_of_the_version(sqlite_work: UnitOfWork) -> None:
    first, second = _make(sqlite_work, 2)
    _activate(sqlite_work, first)

    def fit(session: Session) -> None:
        activations.current(session, domain_of(session)).threshold = 0.77

    sqlite_work(fit)
    _activate(sqlite_work, second)
    assert _rollback(sqlite_work) == (first, 0.77)


def test_a_person_may_choose_again_what_was_rolled_back(sqlite_work: UnitOfWork) -> None:
    first, second = _make(sqlite_work, 2)
    for version in (first, second):
        _activate(sqlite_work, version)
    _rollback(sqlite_work)
    _activate(sqlite_work, second)
    assert _status(sqlite_work, second) == ("passed", None)
    assert _rollback(sqlite_work)[0] == first


def test_rollback_passes_over_versions_that_could_not_be_loaded(sqlite_work: UnitOfWork) -> None:
    names = _make(sqlite_work, 4)
    first, broken, third, fourth = names
    for version in (first, broken, third):
        _activate(sqlite_work, version)
    sqlite_work(versions.mark_failed, sqlite_work.read(versions.find, broken).id, "corrupt")

    assert _rollback(sqlite_work)[0] == first
    with pytest.raises(NothingToRollBack):
        _rollback(sqlite_work)
    _activate(sqlite_work, fourth)
    assert _rollback(sqlite_work)[0] == first
    assert _status(sqlite_work, broken) == ("failed", "corrupt")


def test_rollback_leaves_an_active_version_that_could_not_be_loaded(sqlite_work: UnitOfWork) -> None:
    first, broken = _make(sqlite_work, 2)
    for version in (first, broken):
        _activate(sqlite_work, version)
    sqlite_work(versions.mark_failed, sqlite_work.read(versions.find, broken).id, "corrupt")
    assert _rollback(sqlite_work)[0] == first
    assert _status(sqlite_work, broken) == ("failed", "corrupt")


def test_domains_flip_apart(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "shop")
    ours = sqlite_work(make_version).version
    theirs = sqlite_work(make_version, domain="shop").version
    _activate(sqlite_work, ours)
    _activate(sqlite_work, theirs)
    assert column(sqlite_work, Domain.name, Domain.epoch) == [("default", 1), ("shop", 1)]
    assert column(sqlite_work, ModelVersion.is_active) == [True, True]


def _flip_at_random(work: UnitOfWork, number: int, names: Sequence[str], rounds: int) -> list[int]:
    epochs = []
    for turn in range(rounds):
        try:
            if (number + turn) % 3 == 2:
                epochs.append(work(activations.rollback, "default", by=str(number), reason="back").epoch)
            else:
                name = names[(number * 5 + turn * 3) % len(names)]
                before = work.read(domain_of).epoch
                activation = work(activations.activate, name, by=str(number), reason="on", seen_epoch=before)
                epochs.append(activation.epoch)
        except (StaleEpoch, NothingToRollBack):
            continue
    return epochs


def _watch(work: UnitOfWork, number: int, names: Sequence[str], rounds: int, done: object) -> list[int]:
    """Eight flip, the last one looks until they are done: always one marked version, and never an older epoch."""
    if number < 8:
        try:
            return _flip_at_random(work, number, names, rounds)
        finally:
            done.release()  # type: ignore[attr-defined]
    seen: list[int] = []
    left = 8
    while left:
        if done.acquire(timeout=0.005):  # type: ignore[attr-defined]
            left -= 1
        marked, pointer, epoch = work.read(_look)
        assert marked <= 1
        if pointer is not None:
            assert marked == 1
        assert not seen or epoch >= seen[-1]
        seen.append(epoch)
    return seen


def _look(session: Session) -> tuple[int, int | None, int]:
    # One statement: on servers each statement sees a moment of its own.
    marked = select(ModelVersion.id).where(ModelVersion.is_active.is_(True), ModelVersion.domain_id == Domain.id)
    row = session.execute(
        select(Domain.active_version_id, Domain.epoch, marked.scalar_subquery()).where(Domain.name == "default")
    ).one()
    assert row[0] == row[2]
    return int(row[2] is not None), row[0], row[1]


def test_one_version_serves_at_every_moment_while_eight_flip_and_roll_back(database_url: str, work: UnitOfWork) -> None:
    names = _make(work, 4)
    _activate(work, names[0])
    done = PROCESSES.Semaphore(0)

    *_, seen = in_processes(9, _watch, database_url, names, 8, done)

    epochs = column(work, ModelActivation.epoch)
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) > 8
    assert column(work, Domain.epoch) == [len(epochs)]
    assert len(_active(work)) == 1
    assert len(seen) > 1
    release = work.read(domains.release, domain_id(work))
    assert [release.version] == _active(work)
