"""A generative version stands beside the active one: it flips and rolls back like it, and never takes its place."""

import pytest
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import AuditEvent, Domain, ModelActivation, ModelVersion, Text
from app.errors import NoBaseModel, NothingNew, NothingToRollBack, VersionUnusable
from app.services import activations, audit, batches, domains, versions
from app.services.activations import Pairing
from app.services.versions import Proof
from tests.builders import column, domain_id, domain_of, make_labelled_texts, make_version

BASE = {"base_model": "a-causal-model"}
LABELS = {"硬件故障 > 无法开机": 4, "售后服务 > 退货": 4}


def discriminative(work: UnitOfWork, threshold: float) -> str:
    return work(make_version, threshold=threshold).version


def generative(work: UnitOfWork, **changes: object) -> str:
    return work(make_version, recipe="lora", threshold=0.3, **changes).version


def activate(work: UnitOfWork, version: str, **changes: object) -> ModelActivation:
    return work(activations.activate, version, **({"by": "ana", "reason": "try"} | changes))


def rollback(work: UnitOfWork) -> ModelActivation:
    return work(activations.rollback, "default", by="ana", reason="worse")


def serving(work: UnitOfWork) -> tuple[str | None, str | None, float]:
    """The release that services read: active version, generative version, τ."""
    release = work.read(domains.release, domain_id(work))
    return release.version, release.generative_version, release.threshold


def status(work: UnitOfWork, version: str) -> str:
    return work.read(versions.find, version).status


def test_a_generative_version_is_asked_beside_the_active_one_which_stays(work: UnitOfWork) -> None:
    main = discriminative(work, 0.7)
    activate(work, main)
    again = generative(work)
    activation = activate(work, again)

    assert (activation.epoch, activation.kind) == (2, "activate")
    assert serving(work) == (main, again, 0.7)
    assert work.read(versions.find, main).is_active
    assert work.read(versions.find, again).is_active is None
    assert work.read(versions.find, again).activated_at is not None
    release = work.read(domains.release, domain_id(work))
    assert release.generative_digest == work.read(versions.find, again).artifact_digest
    # Once more changes nothing.
    assert activate(work, again).epoch == 2


def test_other_flips_keep_the_generative_version(sqlite_work: UnitOfWork) -> None:
    first, again, second = discriminative(sqlite_work, 0.7), generative(sqlite_work), discriminative(sqlite_work, 0.8)
    for version in (first, again, second):
        activate(sqlite_work, version)
    assert serving(sqlite_work) == (second, again, 0.8)

    def rules(session: Session) -> None:
        domain = domains.locked(session, "default")
        version = session.get(ModelVersion, domain.active_version_id)
        activations.flip(session, domain, version, Pairing(0.9, None, None), by="x", reason="rules", kind="rules")

    sqlite_work(rules)
    assert serving(sqlite_work) == (second, again, 0.9)


def test_a_rollback_undoes_the_last_flip_of_either_and_restores_both(work: UnitOfWork) -> None:
    first, g1, second, g2 = discriminative(work, 0.7), generative(work), discriminative(work, 0.8), generative(work)
    for version in (first, g1, second, g2):
        activate(work, version)

    rollback(work)
    assert serving(work) == (second, g1, 0.8)
    assert (status(work, g2), status(work, second)) == ("rolled_back", "passed")
    rollback(work)
    assert serving(work) == (first, g1, 0.7)
    assert (status(work, second), status(work, g1)) == ("rolled_back", "passed")
    rollback(work)
    assert serving(work) == (first, None, 0.7)
    assert status(work, g1) == "rolled_back"
    with pytest.raises(NothingToRollBack):
        rollback(work)
    activate(work, g2)
    assert serving(work) == (first, g2, 0.7)
    assert status(work, g2) == "passed"


def test_a_rollback_passes_over_a_generative_version_that_cannot_be_loaded(sqlite_work: UnitOfWork) -> None:
    first, g1, g2, second = (
        discriminative(sqlite_work, 0.7), generative(sqlite_work), generative(sqlite_work),
        discriminative(sqlite_work, 0.8),
    )  # fmt: skip
    for version in (first, g1, g2, second):
        activate(sqlite_work, version)
    sqlite_work(versions.mark_failed, sqlite_work.read(versions.find, g2).id, "corrupt")
    rollback(sqlite_work)
    assert serving(sqlite_work) == (first, None, 0.7)
    assert status(sqlite_work, g2) == "failed"


def test_a_generative_version_needs_no_active_one(sqlite_work: UnitOfWork) -> None:
    again = generative(sqlite_work)
    activate(sqlite_work, again)
    assert serving(sqlite_work) == (None, again, 0.3)
    main = discriminative(sqlite_work, 0.7)
    activate(sqlite_work, main)
    assert serving(sqlite_work) == (main, again, 0.7)


def test_a_refused_generative_version_needs_force_like_any_other(sqlite_work: UnitOfWork) -> None:
    refused = generative(sqlite_work, status="refused", reason="Worse on gold.")
    with pytest.raises(VersionUnusable):
        activate(sqlite_work, refused)
    activate(sqlite_work, refused, force=True)
    assert serving(sqlite_work)[1] == refused


def test_generative_versions_are_no_rivals_of_the_others(sqlite_work: UnitOfWork) -> None:
    main, again = discriminative(sqlite_work, 0.7), generative(sqlite_work)
    activate(sqlite_work, main)
    activate(sqlite_work, again)
    assert [v.version for v in sqlite_work.read(versions.activated, domain_id(sqlite_work))] == [main]


def _proof(*, passed: bool = True) -> Proof:
    return Proof("ab" * 32, "nowhere", {"gold": {}}, Pairing(0.4), 1.0, 8, passed, () if passed else ("Worse.",))


@pytest.mark.parametrize(("gate", "passed"), [("auto", True), ("auto", False), ("manual", True)])
def test_a_batch_of_a_generative_recipe_becomes_the_generative_version_by_the_gate(
    work: UnitOfWork, gate: str, passed: bool
) -> None:
    main = discriminative(work, 0.7)
    activate(work, main)
    make_labelled_texts(work, LABELS)

    def set_gate(session: Session) -> None:
        domain_of(session).gate = gate

    work(set_gate)
    work(batches.run, work(batches.open_batch, "default", opened_by="ana", recipe="lora", config=BASE).batch_id)
    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None
    version = work(versions.register, claimed, _proof(passed=passed)).version

    flips = gate == "auto" and passed
    assert serving(work) == (main, version if flips else None, 0.7)
    assert status(work, version) == ("passed" if passed else "refused")
    assert column(work, Domain.epoch) == [2 if flips else 1]


def test_a_generative_batch_uses_no_label_up_unless_it_is_the_domains_own_recipe(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, LABELS)
    batch = sqlite_work(batches.open_batch, "default", opened_by="ana", recipe="lora", config=BASE)
    assert (batch.question_count, batch.replay_count) == (0, 8)
    assert set(column(sqlite_work, Text.training_status)) == {"pending"}
    # Once more: there is always something to train on again.
    sqlite_work(batches.open_batch, "default", opened_by="ana", recipe="lora", config=BASE)
    assert sqlite_work(batches.open_batch, "default", opened_by="ana").question_count == 8

    make_labelled_texts(sqlite_work, LABELS)
    sqlite_work(domains.change, "default", {"recipe": "lora", "base_model": "m"})
    assert sqlite_work(batches.open_batch, "default", opened_by="ana").question_count == 8
    with pytest.raises(NothingNew):
        sqlite_work(batches.open_batch, "default", opened_by="ana")


def test_a_generative_batch_needs_a_base_of_its_domain_or_of_its_own(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, LABELS)
    with pytest.raises(NoBaseModel):
        sqlite_work(batches.open_batch, "default", opened_by="ana", recipe="lora")


def test_the_parent_of_a_generative_batch_is_the_generative_version(sqlite_work: UnitOfWork) -> None:
    main, again = discriminative(sqlite_work, 0.7), generative(sqlite_work)
    activate(sqlite_work, main)
    activate(sqlite_work, again)
    make_labelled_texts(sqlite_work, LABELS)
    batch = sqlite_work(batches.open_batch, "default", opened_by="ana", recipe="lora", config=BASE)
    assert batch.parent_version == again


def test_the_trail_says_who_was_asked_again_before_and_since(sqlite_work: UnitOfWork) -> None:
    main, again = discriminative(sqlite_work, 0.7), generative(sqlite_work)
    activate(sqlite_work, main)

    def flip(session: Session) -> None:
        activation = activations.activate(session, again, by="ana", reason="try")
        audit.note_flip(session, audit.COMMAND_LINE, "version.activate", activation)

    sqlite_work(flip)
    [(before, after)] = column(sqlite_work, AuditEvent.before, AuditEvent.after)
    assert (before["generative_version"], after["generative_version"]) == (None, again)
    assert before["version"] == after["version"] == main


def test_what_serves_is_the_active_version_and_the_one_that_is_asked_again(sqlite_work: UnitOfWork) -> None:
    main, again, other = discriminative(sqlite_work, 0.7), generative(sqlite_work), generative(sqlite_work)
    activate(sqlite_work, main)
    activate(sqlite_work, again)
    ids = {name: sqlite_work.read(versions.find, name).id for name in (main, again, other)}
    assert sqlite_work.read(versions.serving_ids) == {ids[main], ids[again]}
    assert sqlite_work.read(versions.serving_ids, generative=False) == {ids[main]}
