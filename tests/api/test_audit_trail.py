"""Every write by a person over HTTP is in the audit trail: who, what, from, to; and never what a user asked."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.db.tables import AuditEvent, Scenario
from app.services import activations, audit
from app.trail import remembered_head
from tests.api.conftest import LOOP, SECRET, Service, wait_for
from tests.api.doors import OPERATIONS
from tests.builders import ask, column, domain_of, make_labelled_texts, make_version, text_of, trainable_text

# Writes that are no person's decision: what users ask, and what a labeler looks at or hands back.
NOT_AUDITED = {"POST /refine", "POST /classify", "POST /classify/batch", f"POST {LOOP}/questions",
               f"POST {LOOP}/questions/{{question_id}}/release"}  # fmt: skip
# They are tried in tests/api/test_keywords.py.
OF_RULES = {f"POST {LOOP}/keywords", f"POST {LOOP}/keywords/extract",
            f"PATCH {LOOP}/keywords/{{rule_id}}", f"DELETE {LOOP}/keywords/{{rule_id}}"}  # fmt: skip
TEXT = "我的电话坏了怎么办"

Event = tuple[str, str, dict[str, Any] | None, dict[str, Any] | None]


@pytest.fixture
def events(service: Service) -> Iterator[list[Event]]:
    """What every audited route leaves behind, asked one after the other."""
    work = service.services.work
    # It would find no artifact behind the versions of this test, and give them up.
    service.services.watcher.stop()
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    [question_id] = ask(work, TEXT + trainable_text("甲"))
    names = [work(lambda session: make_version(session).version) for _ in range(2)]
    for name in names:
        work(activations.activate, name, by="test", reason="test")
    first, second = (work(_scenario, work.read(lambda session: text_of(session, question_id).id)) for _ in range(2))
    base = f"{LOOP}/questions/{question_id}"
    batch = service.post(f"{LOOP}/batches", {"description": TEXT})
    answers = [
        batch,
        service.post(f"{LOOP}/batches/{batch.json()['batch_id']}/run", {"auto_extract_keywords": True}),
        service.label(question_id, "甲"),
        service.label(question_id, "乙"),
        service.http.delete(f"{base}/label", params={"labeler_id": "ana"}),
        service.http.delete(f"{base}/label", params={"labeler_id": "ana"}),
        service.post(f"{base}/skip", {"labeler_id": "ana", "reason": TEXT}),
        service.post(f"{base}/flag", {"labeler_id": "ana", "reason": TEXT}),
        service.http.delete(f"{base}/flag", params={"labeler_id": "bo"}),
        service.post(f"{base}/discard", {"labeler_id": "ana", "reason": TEXT}),
        service.post(f"{LOOP}/labels/undo", {"labeler_id": "ana", "count": 2}),
        service.post(f"{LOOP}/labels/undo", {"labeler_id": "nobody", "count": 2}),
        service.post(f"{LOOP}/models/rollback", {"reason": TEXT}),
        service.post(f"{LOOP}/models/{names[1]}/activate"),
        service.post(f"{LOOP}/domains", {"name": "shop"}),
        service.http.put(f"{LOOP}/taxonomy", params={"domain": "shop"}, json=["丙", "丁"]),
        changed := service.post(
            f"{LOOP}/taxonomy/changes", {"domain": "shop", "kind": "rename", "label": "丙", "to": "戊", "reason": TEXT}
        ),
        service.post(f"{LOOP}/taxonomy/changes/{changed.json()['id']}/undo"),
        service.http.patch(f"{LOOP}/domains/shop", json={"gate": "manual"}),
        service.http.patch(f"{LOOP}/domains/shop", json={"gate": "manual"}),
        service.post(f"{LOOP}/scenarios/{first}/accept", {"label": "戊"}),
        service.post(f"{LOOP}/scenarios/{second}/dismiss"),
    ]
    assert all(answer.status_code < 300 for answer in answers), [answer.text for answer in answers]
    rows = column(work, AuditEvent.action, AuditEvent.subject, AuditEvent.before, AuditEvent.after)
    yield rows
    assert {*column(work, AuditEvent.actor)} == {"local"}
    assert {*column(work, AuditEvent.key_id)} == {None}
    assert TEXT not in str(rows)


def _scenario(session: Session, text_id: int) -> int:
    scenario = Scenario(
        domain_id=domain_of(session).id, text_count=5, question_count=10, keywords=[], typical=[text_id]
    )
    session.add(scenario)
    session.flush()
    return scenario.id


def test_each_write_leaves_one_event(service: Service, events: list[Event]) -> None:
    assert [action for action, *_ in events] == [
        "batch.open", "batch.run", "label.submit", "label.submit", "label.undo", "label.undo", "label.skip",
        "label.flag", "label.unflag", "label.discard", "label.undo_last",
        "version.rollback", "version.activate", "domain.create", "taxonomy.replace",
        "taxonomy.rename", "taxonomy.undo", "domain.change", "scenario.accept", "scenario.dismiss",
    ]  # fmt: skip


def test_events_say_from_what_to_what(service: Service, events: list[Event]) -> None:
    changed = {action: (before, after) for action, _, before, after in events}
    before, after = changed["label.submit"]
    assert before == {"label": "甲", "labeler_id": "ana"}
    assert after is not None
    assert (after["label"], after["labeler_id"]) == ("乙", "ana")
    before, after = changed["version.rollback"]
    assert (before or {})["version"] == "default-v2"
    assert (after or {})["version"] == "default-v1"
    before, after = changed["taxonomy.replace"]
    assert ((before or {})["labels"], (after or {})["labels"]) == (0, 2)
    assert changed["domain.change"] == ({"gate": "auto"}, {"gate": "manual"})
    before, after = changed["batch.run"]
    assert before == {"training_status": "pending"}
    assert after == {"training_status": "queued", "auto_extract_keywords": True}


def test_a_running_service_chains_them_and_remembers_the_end(service: Service, events: list[Event]) -> None:
    work = service.services.work
    wait_for(lambda: None not in column(work, AuditEvent.sequence))
    found = work.read(audit.verify, secret=SECRET.encode())
    assert (found.unsealed, list(found.faults)) == (0, [])
    wait_for(lambda: remembered_head(service.settings.audit_head) == found.head)


def test_a_refused_write_leaves_no_event(service: Service) -> None:
    service.put_taxonomy("甲", "乙")
    question_id = service.log("你好")
    assert service.label(question_id, "没有").status_code == 422
    assert service.post(f"{LOOP}/batches", {}).status_code == 409
    assert service.post(f"{LOOP}/models/rollback").status_code == 409
    assert column(service.services.work, AuditEvent.action) == ["taxonomy.replace"]


def test_every_route_that_writes_is_audited_or_known_not_to_be() -> None:
    writes = {operation for operation in OPERATIONS if not operation.startswith("GET")}
    audited = {
        f"POST {LOOP}/questions/{{question_id}}/label", f"DELETE {LOOP}/questions/{{question_id}}/label",
        f"POST {LOOP}/questions/{{question_id}}/discard", f"POST {LOOP}/questions/{{question_id}}/flag",
        f"DELETE {LOOP}/questions/{{question_id}}/flag", f"POST {LOOP}/labels/undo",
        f"POST {LOOP}/questions/{{question_id}}/skip", f"POST {LOOP}/batches", f"POST {LOOP}/batches/{{batch_id}}/run",
        f"POST {LOOP}/models/rollback", f"POST {LOOP}/models/{{version}}/activate", f"POST {LOOP}/domains",
        f"PUT {LOOP}/taxonomy", f"PATCH {LOOP}/domains/{{name}}",
        f"POST {LOOP}/scenarios/{{scenario_id}}/accept", f"POST {LOOP}/scenarios/{{scenario_id}}/dismiss",
        f"POST {LOOP}/taxonomy/changes", f"POST {LOOP}/taxonomy/changes/{{change_id}}/undo",
    }  # fmt: skip
    # A new route is tried in `events` above, and then named here.
    assert writes - NOT_AUDITED == audited | OF_RULES
