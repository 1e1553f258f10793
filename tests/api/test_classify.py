"""`/classify` and `/classify/batch`: the answer's fields, limits, ids, and errors of one item of many."""

import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from sqlalchemy import func, select

from app.db.tables import UserQuestion
from app.services import domains
from tests.api.conftest import LOOP, Service
from tests.serving.artifacts import LABELS

FIELDS = {
    "request_id", "question_id", "domain", "label", "path", "intents", "confidence", "topk", "trigger_check",
    "confident_path", "method",
    "route_used", "model_version", "latency_ms",
}  # fmt: skip


def _rows(service: Service) -> int:
    return service.services.work.read(lambda session: session.scalar(select(func.count(UserQuestion.question_id)))) or 0


def test_classify_answers_with_label_path_and_version(service_with_model: Service) -> None:
    answer = service_with_model.classify("我的手机开不了机怎么办", request_id="r1", topk=2)

    assert set(answer) == FIELDS
    assert answer["request_id"] == "r1"
    assert uuid.UUID(answer["question_id"]).version == 7
    assert answer["domain"] == "default"
    assert answer["label"] == LABELS[0]
    assert answer["path"] == ["硬件故障", "电源问题", "无法开机"]
    assert answer["intents"] == [LABELS[0]]
    assert 0.7 <= answer["confidence"] <= 1
    assert answer["trigger_check"] is False
    assert answer["method"] == "local_model"
    assert answer["route_used"] == ["discriminative"]
    assert answer["model_version"] == "default-v1"
    assert answer["latency_ms"] > 0
    assert len(answer["topk"]) == 2
    assert answer["topk"][0] == [answer["label"], answer["confidence"]]
    assert all(first[1] >= second[1] for first, second in pairwise(answer["topk"]))


def test_classify_gives_the_best_guess_below_the_threshold_and_asks_for_a_person(service_with_model: Service) -> None:
    answer = service_with_model.classify("zzzz qqqq")

    assert answer["label"] in LABELS
    assert answer["confidence"] < 0.7
    assert answer["trigger_check"] is True


def test_classify_without_a_model_says_that_nobody_answered(service: Service) -> None:
    answer = service.classify("手机开不了机")

    assert answer["label"] is None
    assert answer["path"] == answer["intents"] == answer["topk"] == answer["route_used"] == []
    assert answer["confidence"] is None
    assert answer["method"] == "none"
    assert answer["trigger_check"] is True
    assert answer["model_version"] is None


def test_topk_defaults_to_three_and_reaches_every_label(service_with_model: Service) -> None:
    assert len(service_with_model.classify("退货")["topk"]) == 3
    answer = service_with_model.classify("退货", topk=20)
    assert {label for label, _ in answer["topk"]} == set(LABELS)
    assert sum(probability for _, probability in answer["topk"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("topk", [0, 21, -1, 1.5, "3", True, None, 2**63])
def test_topk_outside_of_its_range_or_type_is_refused(calm: Service, topk: object) -> None:
    answer = calm.post("/classify", {"text": "退货", "topk": topk})
    assert answer.status_code == 422
    assert answer.json()["code"] == "validation_error"


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\ufeff", "\x01"])
def test_text_of_which_nothing_is_left_is_refused(calm: Service, text: str) -> None:
    before = _rows(calm)
    answer = calm.post("/classify", {"text": text})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert _rows(calm) == before


def test_text_may_have_20000_characters_and_60000_bytes_and_no_more(service: Service) -> None:
    assert service.post("/classify", {"text": "a" * 20_000}).status_code == 200
    assert service.post("/classify", {"text": "电" * 20_000}).status_code == 200
    assert service.post("/classify", {"text": "a" * 20_001}).status_code == 422
    assert service.post("/classify", {"text": "🙂" * 15_001}).json()["code"] == "text_refused"
    # One character that NFKC writes as eighteen.
    assert service.post("/classify", {"text": "\ufdfa" * 1_200}).json()["code"] == "text_refused"


def test_same_request_gets_the_first_answer_and_one_row(service_with_model: Service) -> None:
    before = _rows(service_with_model)
    first = service_with_model.classify("手机开不了机", request_id="again", user_id="u")
    second = service_with_model.classify("手机开不了机", request_id="again", user_id="u")

    assert second == first
    assert _rows(service_with_model) == before + 1
    # How much of the answer is shown is not what was asked.
    assert (
        service_with_model.classify("手机开不了机", request_id="again", user_id="u", topk=1)["topk"]
        == first["topk"][:1]
    )


@pytest.mark.parametrize("changed", [{"text": "别的"}, {"user_id": "v"}, {"train_allowed": False}])
def test_request_id_with_another_body_is_refused(service: Service, changed: dict[str, object]) -> None:
    body = {"text": "手机开不了机", "request_id": "once", "user_id": "u"}
    service.classify(**body)

    answer = service.post("/classify", body | changed)

    assert answer.status_code == 422
    assert answer.json()["code"] == "request_id_conflict"
    assert _rows(service) == 1


def test_bodies_are_compared_before_masking(service: Service) -> None:
    service.classify("打给13800138000", request_id="call")
    answer = service.post("/classify", {"text": "打给13900139000", "request_id": "call"})
    assert answer.json()["code"] == "request_id_conflict"


def test_request_id_belongs_to_its_domain(service: Service) -> None:
    service.post(f"{LOOP}/domains", {"name": "other"})
    first = service.classify("你好", request_id="same")
    second = service.classify("你好", request_id="same", domain="other")
    assert first["question_id"] != second["question_id"]


def test_idempotency_key_stands_in_for_a_missing_request_id(service: Service) -> None:
    first = service.post("/classify", {"text": "你好"}, headers={"Idempotency-Key": "k1"}).json()
    assert first["request_id"] == "k1"
    assert service.classify("你好", request_id="k1") == first
    named = service.post("/classify", {"text": "你好", "request_id": "own"}, headers={"Idempotency-Key": "k1"}).json()
    assert named["request_id"] == "own"


def test_twenty_threads_with_one_request_id_make_one_row_and_hear_one_answer(any_service: Service) -> None:
    barrier = threading.Barrier(20)

    def ask(_: int) -> str:
        barrier.wait()
        answer = any_service.post("/classify", {"text": "手机开不了机", "request_id": "race"})
        assert answer.status_code == 200, answer.text
        return answer.text

    with ThreadPoolExecutor(20) as pool:
        answers = set(pool.map(ask, range(20)))

    assert len(answers) == 1
    assert _rows(any_service) == 1


def test_twenty_threads_with_one_request_id_and_two_bodies_keep_the_first(any_service: Service) -> None:
    barrier = threading.Barrier(20)

    def ask(number: int) -> int:
        barrier.wait()
        return any_service.post("/classify", {"text": f"文本{number % 2}", "request_id": "race"}).status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = sorted(pool.map(ask, range(20)))

    assert statuses == [200] * 10 + [422] * 10
    assert _rows(any_service) == 1


def test_batch_answers_each_item_in_order(service_with_model: Service) -> None:
    answer = service_with_model.post(
        "/classify/batch", {"texts": ["手机开不了机", "我要退货", "", "谢谢你"], "topk": 1}
    )

    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result.get("label") for result in results] == [LABELS[0], LABELS[1], None, LABELS[2]]
    assert results[2]["error"]["code"] == "text_refused"
    assert all(set(results[i]) == FIELDS and len(results[i]["topk"]) == 1 for i in (0, 1, 3))


def test_batch_item_without_an_id_takes_the_idempotency_key_and_its_place(service: Service) -> None:
    body = {"items": [{"text": "一"}, {"text": "二", "request_id": "own"}, {"text": 3}, {"text": "四"}]}
    first = service.post("/classify/batch", body, headers={"Idempotency-Key": "key"}).json()["results"]

    assert [result.get("request_id") for result in first] == ["key#0", "own", None, "key#3"]
    assert first[2]["error"]["status"] == 422
    assert service.post("/classify/batch", body, headers={"Idempotency-Key": "key"}).json()["results"] == first
    assert service.classify("四", request_id="key#3") == first[3]
    assert _rows(service) == 3


def test_batch_reports_a_conflict_for_its_item_alone(service: Service) -> None:
    service.classify("一", request_id="taken")
    items = [{"text": "二", "request_id": "taken"}, {"text": "三", "request_id": "free"}]
    results = service.post("/classify/batch", {"items": items}).json()["results"]
    assert results[0]["error"]["code"] == "request_id_conflict"
    assert results[1]["request_id"] == "free"


def test_equal_ids_within_one_batch_are_one_question(service: Service) -> None:
    items = [{"text": "一", "request_id": "x"}, {"text": "一", "request_id": "x"}, {"text": "二", "request_id": "x"}]
    results = service.post("/classify/batch", {"items": items}).json()["results"]
    assert results[0] == results[1]
    assert results[2]["error"]["code"] == "request_id_conflict"
    assert _rows(service) == 1


@pytest.mark.parametrize("item", [None, 1, "text", [], {}, {"text": None}, {"text": "x", "request_id": ""},
                                  {"text": "x", "user_id": "u" * 256}, {"text": "x", "request_id": " padded "},
                                  {"text": "x" * 20_001}])  # fmt: skip
def test_malformed_item_fails_alone(calm: Service, item: object) -> None:
    answer = calm.post("/classify/batch", {"items": [item, {"text": "你好"}]})
    assert answer.status_code == 200
    bad, good = answer.json()["results"]
    assert bad["error"]["status"] == 422
    assert good["question_id"]


def test_batch_takes_256_items_and_no_more(service: Service) -> None:
    assert len(service.post("/classify/batch", {"texts": ["你好"] * 256}).json()["results"]) == 256
    assert service.post("/classify/batch", {"texts": ["你好"] * 257}).status_code == 422
    assert service.post("/classify/batch", {"items": [{"text": "你好"}] * 257}).status_code == 422


@pytest.mark.parametrize("body", [{}, {"texts": None, "items": None}, {"texts": [], "items": []}, {"texts": "你好"}])
def test_batch_needs_either_texts_or_items(calm: Service, body: object) -> None:
    assert calm.post("/classify/batch", body).status_code == 422


def test_batch_of_nothing_has_no_results(service: Service) -> None:
    assert service.post("/classify/batch", {"texts": []}).json() == {"results": []}


@pytest.mark.parametrize("texts", [["你好"], [], [1]])
def test_batch_for_an_unknown_domain_fails_as_a_whole(calm: Service, texts: list[object]) -> None:
    answer = calm.post("/classify/batch", {"texts": texts, "domain": "nowhere"})
    assert answer.status_code == 404
    assert answer.json()["code"] == "domain_not_found"


def test_domain_made_by_another_process_answers_at_once(service: Service, sqlite_url: str) -> None:
    from app.db.session import UnitOfWork, connect

    other = connect(sqlite_url)
    UnitOfWork(other)(domains.create, "fresh")
    other.dispose()
    assert service.classify("你好", domain="fresh")["domain"] == "fresh"


def test_question_is_in_the_queue_within_a_second(service_with_model: Service) -> None:
    asked = service_with_model.classify("为什么我的屏幕碎了还要自己付钱")
    start = time.monotonic()

    def waiting() -> list[dict[str, object]]:
        items = service_with_model.get(f"{LOOP}/questions/unlabeled").json()["items"]
        return [item for item in items if item["question_id"] == asked["question_id"]]

    [item] = service_with_model.wait_for(waiting)
    assert time.monotonic() - start < 1.0
    assert item["intents"] == asked["intents"]
    assert item["confidence"] == asked["confidence"]
    assert item["strategy"] == "margin"
    assert item["topk"][:3] == asked["topk"]
    assert item["reason"]


def test_question_can_be_read_back_with_its_verdicts_and_a_time_in_utc(service_with_model: Service) -> None:
    asked = service_with_model.classify("退货", request_id="r")
    shown = service_with_model.get(f"{LOOP}/questions/{asked['question_id']}").json()

    assert shown["question"] == "退货"
    assert shown["source"] == "served"
    assert shown["request_id"] == "r"
    assert shown["verdicts"][0]["tier"] == "discriminative"
    assert shown["verdicts"][0]["version"] == "default-v1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", shown["asked_at"])
    assert shown["is_labeled"] is False
    assert shown["correct_intent"] is None
    for field in ("intents", "confidence", "method", "route_used", "trigger_check", "model_version", "latency_ms"):
        assert shown[field] == asked[field]


def test_question_that_may_not_be_trained_on_is_logged_but_not_queued(service: Service) -> None:
    asked = service.classify("不要训练我", train_allowed=False)
    service.wait_for(lambda: service.get(f"{LOOP}/stats").json()["texts"])
    assert service.get(f"{LOOP}/questions/{asked['question_id']}").json()["train_allowed"] is False
    assert service.get(f"{LOOP}/questions/unlabeled").json()["items"] == []
