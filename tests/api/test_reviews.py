"""Labels in doubt, over HTTP: handed out with their evidence, replaced or confirmed by whoever holds them."""

from app.db.tables import AuditEvent
from tests.api.conftest import LOOP, Service
from tests.builders import column, make_labelled_texts, text_of
from tests.services.test_suspects import doubt


def test_a_review_is_handed_out_answered_and_counted(any_service: Service) -> None:
    work = any_service.services.work
    ids = make_labelled_texts(work, {"甲": 3, "乙": 1})
    near = work.read(text_of, ids[3])
    doubt(work, *ids[:2], neighbour_ids=(near.id,))
    assert any_service.get(f"{LOOP}/stats").json()["suspects"] == 2

    answer = any_service.get(f"{LOOP}/questions/unlabeled", strategy="review", labeler_id="bo", limit=2)
    first, second = answer.json()["items"]

    assert answer.status_code == 200
    assert (first["question_id"], first["strategy"], first["sampling_probability"]) == (ids[0], "review", None)
    assert first["review"] == {
        "label": "甲",
        "suspicion": 0.9,
        "answer": "乙",
        "confidence": 0.8,
        "model_version": "default-v1",
        "neighbours": [{"question": near.text, "label": "乙"}],
    }
    changed = any_service.label(ids[0], "乙", "bo", lease_token=first["lease_token"])
    confirmed = any_service.label(ids[1], "甲", "bo", lease_token=second["lease_token"])
    assert (changed.status_code, confirmed.status_code) == (200, 200)
    assert changed.json()["supersedes"] is not None
    assert confirmed.json()["supersedes"] is not None
    assert any_service.get(f"{LOOP}/stats").json()["suspects"] == 0
    assert any_service.get(f"{LOOP}/questions/unlabeled", strategy="review").json()["items"] == []
    assert column(work, AuditEvent.action)[-2:] == ["label.submit", "label.submit"]


def test_a_review_that_another_holds_is_409_and_one_that_is_skipped_waits_for_others(service: Service) -> None:
    work = service.services.work
    [question_id, _] = make_labelled_texts(work, {"甲": 1, "乙": 1})
    doubt(work, question_id)
    service.get(f"{LOOP}/questions/unlabeled", strategy="review", labeler_id="bo")

    refused = service.label(question_id, "乙", "ana")
    assert (refused.status_code, refused.json()["code"]) == (409, "leased")
    skipped = service.post(f"{LOOP}/questions/{question_id}/skip", {"labeler_id": "bo"})
    assert (skipped.status_code, skipped.json()["state"]) == (200, "labelled")
    for labeler, waits in (("bo", 0), ("cy", 1)):
        answer = service.get(f"{LOOP}/questions/unlabeled", strategy="review", labeler_id=labeler)
        assert len(answer.json()["items"]) == waits
