"""The queue and what labelers answer, over HTTP."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from jobs.context import JobContext
from jobs.select_questions import select_questions
from tests.api.conftest import LOOP, Service
from tests.serving.artifacts import LABELS

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"


def _queue(service: Service, **parameters: object) -> list[dict[str, object]]:
    answer = service.get(f"{LOOP}/questions/unlabeled", **parameters)
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] is None
    items: list[dict[str, object]] = answer.json()["items"]
    return items


def _filled(service: Service, *texts: str) -> dict[str, str]:
    """These texts in the queue: their question ids. Gold candidates wait for the draw, so none is among them."""
    ids = {text: service.log(text) for text in texts}
    service.wait_for(lambda: service.get(f"{LOOP}/stats").json()["texts"] >= len(texts))
    return ids


def _unfolded(service: Service) -> int:
    with service.services.engine.connect() as connection:
        waiting = text("SELECT count(*) FROM intent_user_questions WHERE text_id IS NULL")
        return int(connection.execute(waiting).scalar_one())


@pytest.fixture
def ready(any_service: Service) -> Service:
    any_service.put_taxonomy()
    return any_service


def _ordinary(count: int) -> list[str]:
    from app.intent.selection import is_gold_candidate
    from app.intent.text import MaskedText, text_hash

    texts = (f"第{number}个普通的问题" for number in range(10_000))
    chosen = (text for text in texts if not is_gold_candidate(text_hash(MaskedText(text))))
    return [next(chosen) for _ in range(count)]


def test_queue_item_has_the_fields_of_the_contract(ready: Service) -> None:
    [text] = _ordinary(1)
    ids = _filled(ready, text)
    [item] = _queue(ready, labeler_id="ana", lease_seconds=60)

    assert set(item) == {
        "question_id", "question", "count", "group_size", "intents", "confidence", "topk", "priority", "reason",
        "strategy", "sampling_probability", "lease_token", "lease_expires_at", "review",
    }  # fmt: skip
    assert item["question_id"] == ids[text]
    assert item["question"] == text
    assert (item["count"], item["group_size"]) == (1, 1)
    assert item["strategy"] == "random"
    assert re.fullmatch(TIME, str(item["lease_expires_at"]))
    left = datetime.fromisoformat(str(item["lease_expires_at"])) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=61)


def test_the_queue_of_one_strategy_holds_what_it_selected(ready: Service) -> None:
    ids = _filled(ready, *_ordinary(4))
    select_questions(JobContext(ready.settings, ready.services.work, ready.services.rule))
    selected = _queue(ready)
    assert {item["question_id"] for item in selected} == set(ids.values())
    assert {(item["strategy"], item["sampling_probability"]) for item in selected} == {("typical", 1.0)}
    assert all(1.0 < float(str(item["priority"])) <= 2.0 for item in selected)
    assert _queue(ready, strategy="typical", labeler_id="ana", limit=1)[0]["question_id"] == selected[0]["question_id"]
    assert _queue(ready, strategy="suspect") == []
    told = ready.get(f"{LOOP}/stats").json()["selection"]
    assert re.fullmatch(TIME, told.pop("selected_at"))
    assert told == {"version": None, "selected": {"typical": 4}, "labelled": {}}


def test_looking_takes_no_lease_and_leasing_hides_the_text_from_others(ready: Service) -> None:
    _filled(ready, *_ordinary(2))
    assert [item["lease_token"] for item in _queue(ready)] == [None, None]
    held = _queue(ready, labeler_id="ana", limit=1)
    assert len(held) == 1
    assert {item["question_id"] for item in _queue(ready, labeler_id="bo")} != {held[0]["question_id"]}
    assert _queue(ready, labeler_id="ana", limit=1)[0]["lease_token"] == held[0]["lease_token"]


@pytest.mark.parametrize(
    "parameters",
    [{"limit": 0}, {"limit": 501}, {"limit": -1}, {"limit": "1.5"}, {"limit": "x"}, {"limit": 2**70},
     {"strategy": "best"}, {"strategy": "x" * 33}, {"labeler_id": ""}, {"labeler_id": "a\x00b"}, {"labeler_id": " a"},
     {"labeler_id": "x" * 129}, {"labeler_id": "ana", "lease_seconds": 0},
     {"labeler_id": "ana", "lease_seconds": 86_401}],
)  # fmt: skip
def test_queue_refuses_parameters_out_of_range(calm: Service, parameters: dict[str, object]) -> None:
    answer = calm.get(f"{LOOP}/questions/unlabeled", **parameters)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_label_reaches_the_twins_there_are_and_those_that_come(ready: Service) -> None:
    first, twin = ready.log("手机开不了机"), ready.log("  手机 开不了机 ".replace(" ", ""))
    ready.wait_for(lambda: _unfolded(ready) == 0)  # a twin that is folded later is labelled then, and not counted here
    answer = ready.label(first, LABELS[0], correct_time_intent={"type": "this_year", "target_years": [2026]})

    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"annotation_id", "question_id", "label", "path", "supersedes", "twins", "state"}
    assert (body["label"], body["path"], body["twins"]) == (LABELS[0], LABELS[0].split(" > "), 2)
    assert body["state"] == "labelled"
    later = ready.log("手机开不了机")
    ready.wait_for(lambda: ready.get(f"{LOOP}/questions/{later}").json()["is_labeled"])
    for question_id in (first, twin, later):
        shown = ready.get(f"{LOOP}/questions/{question_id}").json()
        assert shown["is_labeled"] is True
        assert shown["correct_intent"] == [LABELS[0]]
        assert shown["correct_time_intent"] == {"type": "this_year", "target_years": [2026]}
        assert shown["labeler_id"] == "ana"
        assert re.fullmatch(TIME, shown["labeled_at"])


def test_second_answer_supersedes_undo_brings_the_first_back(ready: Service) -> None:
    question = ready.log("退货吗")
    first = ready.label(question, LABELS[0]).json()
    second = ready.label(question, LABELS[1]).json()
    assert second["supersedes"] == first["annotation_id"]
    other = ready.label(question, LABELS[2], labeler_id="bo")
    assert (other.status_code, other.json()["code"]) == (409, "already_labelled")
    assert other.json()["annotation_id"] == second["annotation_id"]
    named = ready.label(question, LABELS[2], labeler_id="bo", supersedes=second["annotation_id"])
    assert named.status_code == 200

    undone = ready.http.delete(f"{LOOP}/questions/{question}/label", params={"labeler_id": "bo"})
    assert undone.json() == {"question_id": question, "state": "labelled"}
    assert ready.get(f"{LOOP}/questions/{question}").json()["correct_intent"] == [LABELS[1]]
    ready.http.delete(f"{LOOP}/questions/{question}/label", params={"labeler_id": "ana"})
    gone = ready.http.delete(f"{LOOP}/questions/{question}/label", params={"labeler_id": "ana"})
    assert gone.json()["state"] == "unlabelled"
    nothing = ready.http.delete(f"{LOOP}/questions/{question}/label", params={"labeler_id": "ana"})
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_to_undo")


def test_text_that_another_holds_is_leased(ready: Service) -> None:
    _filled(ready, *_ordinary(1))
    [item] = _queue(ready, labeler_id="ana")
    question = str(item["question_id"])
    refused = ready.label(question, LABELS[0], labeler_id="bo")
    assert (refused.status_code, refused.json()["code"]) == (409, "leased")
    assert re.fullmatch(TIME, refused.json()["lease_expires_at"])
    released = ready.post(f"{LOOP}/questions/{question}/release", {"labeler_id": "ana"})
    assert released.json() == {"question_id": question, "state": "unlabelled"}
    assert ready.label(question, LABELS[0], labeler_id="bo").status_code == 200


def test_two_labelers_skips_retire_a_text(ready: Service) -> None:
    question = _filled(ready, *_ordinary(1)).popitem()[1]
    skip = f"{LOOP}/questions/{question}/skip"
    assert ready.post(skip, {"labeler_id": "ana", "reason": "不懂"}).json()["state"] == "unlabelled"
    assert _queue(ready, labeler_id="ana") == []
    assert ready.post(skip, {"labeler_id": "bo"}).json()["state"] == "skipped"
    refused = ready.label(question, LABELS[0])
    assert (refused.status_code, refused.json()["code"]) == (409, "skipped")


def test_label_outside_of_the_taxonomy_names_the_near_ones(ready: Service) -> None:
    answer = ready.label(ready.log("x"), "无法开机")
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_label")
    assert answer.json()["near"][0] == LABELS[0]


def test_levels_in_place_of_a_label_name_the_joined_form(ready: Service) -> None:
    question = ready.log("x")
    answer = ready.post(
        f"{LOOP}/questions/{question}/label",
        {"correct_intent": ["硬件故障", "电源问题", "无法开机"], "labeler_id": "ana"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "levels_not_label")
    assert answer.json()["label"] == LABELS[0]
    many = ready.post(
        f"{LOOP}/questions/{question}/label", {"correct_intent": [LABELS[0], LABELS[1]], "labeler_id": "ana"}
    )
    assert (many.status_code, many.json()["code"]) == (422, "too_many_labels")


def test_label_before_there_is_a_taxonomy_is_refused(any_service: Service) -> None:
    answer = any_service.label(any_service.log("x"), "任何")
    assert (answer.status_code, answer.json()["code"]) == (409, "taxonomy_empty")


@pytest.mark.parametrize(
    "body",
    [{}, {"labeler_id": "ana"}, {"correct_intent": [], "labeler_id": "ana"},
     {"correct_intent": ["其他"], "labeler_id": ""}, {"correct_intent": ["其他"], "labeler_id": "\u0007"},
     {"correct_intent": "其他", "labeler_id": "ana"}, {"correct_intent": [None], "labeler_id": "ana"},
     {"correct_intent": ["其他"] * 101, "labeler_id": "ana"},
     {"correct_intent": ["其他"], "labeler_id": "ana", "supersedes": 0},
     {"correct_intent": ["其他"], "labeler_id": "ana", "supersedes": True},
     {"correct_intent": ["其他"], "labeler_id": "ana", "correct_time_intent": []},
     {"correct_intent": ["其他"], "labeler_id": "ana", "correct_time_intent": {"a": "x" * 10_001}},
     {"correct_intent": ["其他"], "labeler_id": "ana", "lease_token": "x" * 65},
     {"correct_intent": [], "labeler_id": "ana", "proposed_label": "a > > b"},
     {"correct_intent": [], "labeler_id": "ana", "proposed_label": "长" * 256}],
)  # fmt: skip
def test_malformed_label_is_refused(calm: Service, body: dict[str, object]) -> None:
    question = calm.log("x")
    answer = calm.post(f"{LOOP}/questions/{question}/label", body)
    assert answer.status_code == 422, answer.text
    assert calm.get(f"{LOOP}/questions/{question}").json()["is_labeled"] is False


def test_proposed_label_is_stored_in_its_normal_form_under_other(ready: Service) -> None:
    question = ready.log("x")
    # Invisible characters would make the proposal longer than its column.
    proposal = "\u200b" * 300 + "新类　>　子类"
    answer = ready.post(
        f"{LOOP}/questions/{question}/label",
        {"correct_intent": [], "labeler_id": "ana", "proposed_label": proposal},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] == "其他"


@pytest.mark.parametrize("action", ["label", "skip", "release", "discard", "flag"])
def test_unknown_question_cannot_be_answered(ready: Service, action: str) -> None:
    for question_id in ("nothing", "%00", "a%20"):
        answer = ready.post(
            f"{LOOP}/questions/{question_id}/{action}", {"correct_intent": ["其他"], "labeler_id": "ana"}
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_label_is_answered_after_its_commit_for_every_reader(ready: Service) -> None:
    question = ready.log("x")
    annotation = ready.label(question, LABELS[0]).json()["annotation_id"]
    assert isinstance(annotation, int)
    assert ready.get(f"{LOOP}/stats").json()["labelled"] == 1
