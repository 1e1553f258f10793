"""A list of a thousand is checked in one call, and every mistake in it still belongs to its item alone."""

import json
from typing import Any

import pytest
from sqlalchemy import select

from app.api.bodies import PARSED_AT_ONCE, parse
from app.db.tables import UserQuestion
from app.errors import Malformed, MalformedBody
from tests.api.conftest import LOOP, Service

PATH = f"{LOOP}/questions"
JSON = {"Content-Type": "application/json"}


def _many(count: int = 1000) -> list[dict[str, Any]]:
    return [
        {
            "question": f"第{number}句, 打13812345678",
            "intents": ["a > b"],
            "confidence": 0.5,
            "request_id": f"r{number}",
        }
        for number in range(count)
    ]


def test_one_bad_item_among_a_thousand_leaves_the_others_as_they_were(any_service: Service) -> None:
    items: list[Any] = _many()
    items[17], items[500], items[999] = {"question": 5}, {"question": "一", "domain": "no such"}, "text"
    results = any_service.post(PATH, {"questions": items}).json()["results"]
    codes = {place: result["error"]["code"] for place, result in enumerate(results) if "error" in result}
    assert codes == {17: "validation_error", 500: "domain_not_found", 999: "validation_error"}
    assert [result["request_id"] for result in results if "error" not in result] == [
        f"r{number}" for number in range(1000) if number not in codes
    ]
    shown = any_service.get(f"{PATH}/{results[3]['question_id']}").json()
    assert (shown["question"], shown["intents"], shown["topk"]) == ("第3句, 打【手机号】", ["a > b"], [["a > b", 0.5]])


def test_thousand_that_are_sent_again_are_all_told_as_duplicates_with_their_first_ids(any_service: Service) -> None:
    first = any_service.post(PATH, {"questions": _many()}).json()["results"]
    again = any_service.post(PATH, {"questions": _many()[::-1]}).json()["results"]
    assert again == [result | {"status": "duplicate"} for result in first[::-1]]


def test_what_no_column_holds_is_replaced_in_large_bodies_too(service: Service) -> None:
    items = [{"question": f"第{number}句" + "长" * 100} for number in range(999)] + [{"question": "a\x00b\ud83dc🙂"}]
    body = json.dumps({"questions": items}).encode()
    assert len(body) > PARSED_AT_ONCE
    results = service.http.post(PATH, content=body, headers=JSON).json()["results"]
    assert service.get(f"{PATH}/{results[-1]['question_id']}").json()["question"] == "a\ufffdb\ufffdc🙂"


@pytest.mark.parametrize("filling", ["", "\\ud800"], ids=["plain", "with half a character"])
@pytest.mark.parametrize(
    ("odd", "status"), [("NaN", 400), ("1e999", 422), ("9" * 30, 422), ("[" * 40 + "]" * 40, 400)], ids=str
)
def test_large_body_is_read_as_strictly_as_a_small_one(calm: Service, odd: str, status: int, filling: str) -> None:
    body = f'{{"questions": [{{"question": "{filling}{"长" * 30_000}"}}], "unknown": {odd}}}'.encode()
    assert len(body) > PARSED_AT_ONCE
    assert calm.http.post(PATH, content=body, headers=JSON).status_code == status


@pytest.mark.parametrize("brackets", ["[]", '{"a":1}'])
@pytest.mark.parametrize("text", ["x", "\\u0000"])
def test_depth_is_bounded_whether_or_not_a_string_must_be_mended(brackets: str, text: str) -> None:
    opening, closing = ("[", "]") if brackets == "[]" else ('{"a":', "}")

    def body(depth: int) -> bytes:
        return (opening * depth + f'"{text}"' + closing * depth).encode()

    assert parse(body(5), max_depth=5)
    with pytest.raises(MalformedBody, match="nested"):
        parse(body(6), max_depth=5)


def test_body_without_escapes_keeps_every_string_as_it_is() -> None:
    assert parse('{"🙂": ["\\ud83d\\ude42", "\\u4e00", "\ufffd"]}'.encode(), max_depth=5) == {
        "🙂": ["🙂", "一", "\ufffd"]
    }
    with pytest.raises(Malformed):
        parse(b"[99999999999999999999]", max_depth=5)


def test_one_item_with_every_field_is_stored_in_bulk_as_it_is_alone(service: Service) -> None:
    whole = {
        "question": " 手机 ", "intents": ["ａ > b"], "confidence": 1, "method": "generative", "user_id": "u",
        "model_version": "m", "asked_at": "2026-01-31T08:00:00.123456+05:45", "train_allowed": False,
        "topk": [["a > b", 0.5], ["c", 0]],
    }  # fmt: skip
    service.post(PATH, whole)
    service.post(PATH, {"questions": [whole]})
    one, many = service.services.work.read(
        lambda session: session.scalars(select(UserQuestion).order_by(UserQuestion.question_id)).all()
    )
    for column in [column.name for column in UserQuestion.__table__.columns]:
        if column not in ("question_id", "created_at", "text_id"):
            assert getattr(one, column) == getattr(many, column), column
