"""`POST /questions`: predictions made elsewhere, one or a thousand, each item for itself."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from app.db.tables import UserQuestion
from tests.api.conftest import LOOP, Service
from tests.serving.artifacts import LABELS

PATH = f"{LOOP}/questions"


def _rows(service: Service) -> int:
    return service.services.work.read(lambda session: session.scalar(select(func.count(UserQuestion.question_id)))) or 0


def test_prediction_made_elsewhere_is_stored_as_it_was_told(any_service: Service) -> None:
    asked_at = datetime.now(UTC).replace(microsecond=123456) - timedelta(days=3)
    answer = any_service.post(
        PATH,
        {
            "question": "  手机 开不了机？ ",
            "intents": ["硬件 > 电源"],
            "confidence": 0.123456789,
            "method": "llm_fallback",
            "request_id": "r-1",
            "user_id": "u",
            "model_version": "their-model",
            "asked_at": asked_at.astimezone().isoformat(),
            "train_allowed": False,
            "topk": [["硬件 > 电源", 0.123456789], ["其他", 0.1]],
        },
    )

    assert answer.status_code == 201
    logged = answer.json()
    assert set(logged) == {"question_id", "request_id", "status"}
    assert logged["status"] == "created"
    shown = any_service.get(f"{PATH}/{logged['question_id']}").json()
    assert shown["question"] == "手机 开不了机?"
    assert shown["source"] == "external"
    assert shown["intents"] == ["硬件 > 电源"]
    assert shown["confidence"] == 0.123456789
    assert shown["method"] == "llm_fallback"
    assert shown["model_version"] == "their-model"
    assert datetime.fromisoformat(shown["asked_at"]) == asked_at
    assert shown["asked_at"].endswith("Z")
    assert shown["train_allowed"] is False
    assert shown["topk"] == [["硬件 > 电源", 0.123456789], ["其他", 0.1]]
    assert shown["trigger_check"] is False


def test_prediction_without_intents_asks_for_a_person(service: Service) -> None:
    shown = service.get(f"{PATH}/{service.log('什么')}").json()
    assert shown["method"] == "none"
    assert shown["trigger_check"] is True
    assert shown["intents"] == shown["topk"] == []


def test_repeated_prediction_is_answered_200_as_a_duplicate(service: Service) -> None:
    body = {"question": "你好", "request_id": "x"}
    first = service.post(PATH, body)
    second = service.post(PATH, body)
    third = service.post(PATH, body | {"question": "别的"})

    assert (first.status_code, second.status_code, third.status_code) == (201, 200, 422)
    assert second.json() == first.json() | {"status": "duplicate"}
    assert third.json()["code"] == "request_id_conflict"
    assert _rows(service) == 1


@pytest.mark.parametrize(
    "changed",
    [{"intents": ["其他"]}, {"confidence": 0.4}, {"method": "none"}, {"user_id": "v"}, {"model_version": "m"},
     {"asked_at": "2026-01-02T00:00:00Z"}, {"train_allowed": False}, {"topk": [["其他", 0.4]]}],
)  # fmt: skip
def test_every_field_of_a_prediction_is_part_of_what_is_compared(service: Service, changed: dict[str, object]) -> None:
    body = {"question": "你好", "intents": ["问候"], "confidence": 0.5, "method": "generative", "request_id": "x"}
    assert service.post(PATH, body).status_code == 201
    answer = service.post(PATH, body | changed)
    assert answer.json()["code"] == "request_id_conflict"


def test_idempotency_key_serves_single_and_bulk_predictions(service: Service) -> None:
    headers = {"Idempotency-Key": "key"}
    one = service.post(PATH, {"question": "一"}, headers=headers)
    again = service.post(PATH, {"question": "一"}, headers=headers)
    assert (one.status_code, again.status_code) == (201, 200)
    assert again.json()["question_id"] == one.json()["question_id"]

    many = {"questions": [{"question": "二"}, {"question": "三", "request_id": "own"}]}
    first = service.post(PATH, many, headers=headers).json()["results"]
    second = service.post(PATH, many, headers=headers).json()["results"]
    assert [result["request_id"] for result in first] == ["key#0", "own"]
    assert [result["status"] for result in second] == ["duplicate", "duplicate"]
    assert [r["question_id"] for r in second] == [r["question_id"] for r in first]


def test_bulk_reports_each_item_in_order_and_keeps_the_good_ones(any_service: Service) -> None:
    any_service.put_taxonomy()
    items = [
        {"question": "一", "request_id": "a"},
        {"question": "   "},
        {"question": "二", "domain": "nowhere"},
        {"question": "一", "request_id": "a"},
        {"question": "别的", "request_id": "a"},
        {"question": "三", "confidence": 1.5},
        {"question": "四", "intents": ["硬件故障", "电源问题", "无法开机"]},
        {"question": "五", "intents": ["甲", "乙"]},
        7,
        {"question": "六"},
    ]
    answer = any_service.post(PATH, {"questions": items})

    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result.get("status") or result["error"]["code"] for result in results] == [
        "created", "text_refused", "domain_not_found", "duplicate", "request_id_conflict", "validation_error",
        "levels_not_label", "too_many_labels", "validation_error", "created",
    ]  # fmt: skip
    assert results[6]["error"]["label"] == LABELS[0]
    assert _rows(any_service) == 2


def test_bulk_takes_a_thousand_and_no_more(service: Service) -> None:
    answer = service.post(PATH, {"questions": [{"question": f"第{i}句"} for i in range(1000)]})
    assert [result["status"] for result in answer.json()["results"]] == ["created"] * 1000
    assert _rows(service) == 1000
    assert service.post(PATH, {"questions": [{"question": "x"}] * 1001}).status_code == 422
    assert service.post(PATH, {"questions": []}).json() == {"results": []}


def test_levels_sent_as_intents_are_refused_with_the_joined_label(calm: Service) -> None:
    answer = calm.post(PATH, {"question": "一", "intents": ["硬件故障", "电源问题", "无法开机"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "levels_not_label")
    assert LABELS[0] in answer.json()["detail"]


@pytest.mark.parametrize("with_labels", [True, False])
def test_several_intents_are_refused_in_a_single_label_domain(service: Service, with_labels: bool) -> None:
    if with_labels:
        service.put_taxonomy()
    answer = service.post(PATH, {"question": "一", "intents": ["甲", "乙"]})
    assert answer.status_code == 422
    assert answer.json()["code"] == "too_many_labels"


def test_unknown_domain_is_404(calm: Service) -> None:
    answer = calm.post(PATH, {"question": "一", "domain": "nowhere"})
    assert (answer.status_code, answer.json()["code"]) == (404, "domain_not_found")


@pytest.mark.parametrize(
    "field",
    [
        {"question": ""}, {"question": None}, {"question": 1}, {"question": "x" * 20_001}, {"intents": "其他"},
        {"intents": [""]}, {"intents": ["\u200b"]}, {"intents": ["x" * 1001]}, {"intents": ["\ufdfa" * 100]},
        {"intents": [["a"]]}, {"confidence": -0.1}, {"confidence": 1.1}, {"confidence": "0.5"}, {"confidence": True},
        {"method": "rules"}, {"request_id": ""}, {"request_id": "a\nb"}, {"request_id": "x" * 256}, {"request_id": 5},
        {"user_id": ""}, {"user_id": "u" * 256}, {"model_version": "v" * 129}, {"train_allowed": "no"},
        {"topk": [["a", 2]]}, {"topk": [["a"]]}, {"topk": [["a", 0.1, 3]]}, {"topk": [["a", 0.1]] * 21},
    ],
)  # fmt: skip
def test_malformed_prediction_is_refused_by_field(calm: Service, field: dict[str, object]) -> None:
    before = _rows(calm)
    answer = calm.post(PATH, {"question": "你好"} | field)
    assert answer.status_code == 422
    problem = answer.json()
    assert set(problem) >= {"type", "title", "status", "detail", "code", "errors"}
    assert next(iter(field)) in problem["errors"][0]["field"]
    assert _rows(calm) == before


@pytest.mark.parametrize(
    "moment",
    ["2026-01-01T00:00:00", "2026-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1700000000",
     1700000000, 1.5, True, "", "now", "1999-12-31T23:59:59Z", "2999-01-01T00:00:00Z", "2026-02-30T00:00:00Z",
     "2026-01-01T00:00:00+99:99"],
)  # fmt: skip
def test_time_without_zone_or_out_of_range_is_refused(calm: Service, moment: object) -> None:
    answer = calm.post(PATH, {"question": "你好", "asked_at": moment})
    assert answer.status_code == 422, answer.text


def test_mistake_in_one_prediction_is_not_reported_as_one_in_many(calm: Service) -> None:
    errors = calm.post(PATH, {"question": 5}).json()["errors"]
    assert len(errors) == 1


def test_question_of_an_unknown_id_is_404(any_service: Service) -> None:
    for question_id in ("x", "00000000-0000-7000-8000-000000000000", "%00", "%ED%A0%80", "a" * 200):
        answer = any_service.http.get(f"{PATH}/{question_id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), question_id
