"""A proven artifact becomes a version, ends its batch and flips its domain in one transaction, or nothing happens."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Domain, Label, ModelActivation, ModelVersion, Text, TrainingBatch
from app.errors import ClaimLost, NotFound
from app.services import activations, batches, versions
from app.services.activations import Pairing
from tests.builders import batch_of, column, domain_id, domain_of, make_labelled_texts, make_version
from tests.services.taxonomies import change


def _proof(**changes: Any) -> versions.Proof:
    values: dict[str, Any] = {
        "artifact_digest": "a" * 64,
        "model_path": "somewhere",
        "evaluation": {"gold": {"count": 0}},
        "pairing": Pairing(0.42),
        "temperature": 1.5,
        "train_count": 4,
        "passed": True,
        "reasons": (),
    }
    return versions.Proof(**(values | changes))


def _claimed(work: UnitOfWork) -> batches.Claimed:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    work(batches.run, work(batches.open_batch, "default", opened_by="ana").batch_id)
    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None
    return claimed


def _manual(session: Session) -> None:
    domain_of(session).gate = "manual"


def test_a_version_that_passed_is_served_and_its_batch_is_done(work: UnitOfWork) -> None:
    claimed = _claimed(work)

    version = work(versions.register, claimed, _proof())

    assert (version.version, version.status, version.training_batch_id) == ("default-v1", "passed", claimed.batch.id)
    batch = work.read(batch_of, claimed.batch.batch_id)
    assert (batch.training_status, batch.outcome, batch.model_version) == ("completed", "activated", "default-v1")
    assert column(work, ModelActivation.version_id, ModelActivation.threshold) == [(version.id, 0.42)]
    assert column(work, Text.training_status) == ["used"] * 4
    active = work.read(lambda session: versions.active(session, domain_of(session)))
    assert active is not None
    assert active.version == "default-v1"


def test_a_version_keeps_the_labels_that_it_was_trained_with(work: UnitOfWork) -> None:
    claimed = _claimed(work)
    ids = dict(column(work, Label.path, Label.id))
    change(work, "rename", "甲", to="丙")
    change(work, "merge", "乙", to="丁")
    first = work(versions.register, claimed, _proof())
    assert first.taxonomy == [[ids["甲"], "甲"], [ids["乙"], "乙"]]
    # What was merged was not trained as what it is now: it waits for the next batch.
    work(batches.run, work(batches.open_batch, "default", opened_by="ana").batch_id)
    claimed_again = work(batches.claim_next, worker="w")
    assert claimed_again is not None
    assert claimed_again.batch.question_count == 2
    second = work(versions.register, claimed_again, _proof())
    assert [path for _, path in second.taxonomy or []] == ["丙", "丁"]
    assert work(activations.rollback, "default", by="ana", reason="test").version_id == first.id


def test_the_next_version_names_its_parent(sqlite_work: UnitOfWork) -> None:
    sqlite_work(versions.register, _claimed(sqlite_work), _proof())
    second = sqlite_work(versions.register, _claimed(sqlite_work), _proof())
    assert (second.version, second.parent_version) == ("default-v2", "default-v1")


def test_a_refused_version_is_kept_with_its_reason_and_not_served(sqlite_work: UnitOfWork) -> None:
    claimed = _claimed(sqlite_work)
    version = sqlite_work(versions.register, claimed, _proof(passed=False, reasons=("Worse.", "Much worse.")))
    assert (version.status, version.reason) == ("refused", "Worse. Much worse.")
    assert sqlite_work.read(batch_of, claimed.batch.batch_id).outcome == "refused"
    assert column(sqlite_work, ModelActivation.id) == []
    # A refused batch does not come again by itself: its labels were trained on.
    assert column(sqlite_work, Text.training_status) == ["used"] * 4


def test_a_manual_gate_leaves_the_flip_to_a_person(sqlite_work: UnitOfWork) -> None:
    sqlite_work(_manual)
    claimed = _claimed(sqlite_work)
    assert sqlite_work(versions.register, claimed, _proof()).status == "passed"
    assert sqlite_work.read(batch_of, claimed.batch.batch_id).outcome == "passed"
    assert sqlite_work.read(domain_of).active_version_id is None


def test_a_lost_claim_registers_nothing(work: UnitOfWork) -> None:
    claimed = _claimed(work)

    def silence(session: Session) -> None:
        row = batch_of(session, claimed.batch.batch_id)
        assert row.heartbeat_at is not None
        row.heartbeat_at -= timedelta(seconds=120)

    work(silence)
    work(batches.fail_lost, lost_after_seconds=60)
    with pytest.raises(ClaimLost):
        work(versions.register, claimed, _proof())

    assert column(work, ModelVersion.id) == []
    assert column(work, Domain.version_seq, Domain.epoch) == [(0, 0)]
    assert column(work, Text.training_status) == ["pending"] * 4


def test_what_breaks_half_way_leaves_nothing_behind(work: UnitOfWork) -> None:
    claimed = _claimed(work)
    # The last step, the activation, refuses this threshold.
    with pytest.raises(Exception, match="threshold"):
        work(versions.register, claimed, _proof(threshold=1.5))
    assert column(work, ModelVersion.id) == []
    assert column(work, TrainingBatch.training_status) == ["training"]
    assert set(column(work, Text.training_status)) == {"claimed"}
    assert column(work, Domain.active_version_id, Domain.epoch) == [(None, 0)]


def test_versions_are_found_and_listed_the_newest_first(sqlite_work: UnitOfWork) -> None:
    names = [sqlite_work(make_version).version for _ in range(3)]
    owner = domain_id(sqlite_work)
    page = sqlite_work.read(versions.listing, owner, limit=2)
    assert [version.version for version in page] == names[:0:-1]
    rest = sqlite_work.read(versions.listing, owner, limit=2, before=page[-1].id)
    assert [version.version for version in rest] == names[:1]
    with pytest.raises(NotFound):
        sqlite_work.read(versions.find, "default-v9")


def test_activated_names_what_was_ever_served_and_can_be_loaded(sqlite_work: UnitOfWork) -> None:
    first, _, third = (sqlite_work(make_version) for _ in range(3))
    for version in (first, third):
        sqlite_work(activations.activate, version.version, by="ana", reason="x")
    owner = domain_id(sqlite_work)
    assert [version.id for version in sqlite_work.read(versions.activated, owner)] == [first.id, third.id]

    sqlite_work(versions.mark_failed, first.id, "corrupt")
    sqlite_work(versions.mark_failed, first.id, "again")
    sqlite_work(versions.mark_failed, 999, "unknown")

    assert [version.id for version in sqlite_work.read(versions.activated, owner)] == [third.id]
    assert sqlite_work.read(versions.find, first.version).reason == "corrupt"
