"""What several people answer over HTTP: blind answers, disputes and who decides them; discards, flags, late writers."""

from typing import Any

import pytest

from app.db.session import UnitOfWork
from app.services import keys
from app.services.audit import COMMAND_LINE
from tests.api.conftest import LOOP, Service, wait_for
from tests.builders import ask, expire_leases, trainable_text
from tests.serving.artifacts import LABELS


@pytest.fixture
def ready(any_service: Service) -> Service:
    any_service.put_taxonomy()
    return any_service


def _work(service: Service) -> UnitOfWork:
    return service.services.work


def _overlapping(service: Service, overlap: int = 2, texts: int = 1) -> list[str]:
    service.http.patch(f"{LOOP}/domains/default", json={"overlap": overlap}).raise_for_status()
    return ask(_work(service), *[trainable_text("甲") for _ in range(texts)])


def _leased(service: Service, labeler_id: str) -> dict[str, str]:
    answer = service.get(f"{LOOP}/questions/unlabeled", labeler_id=labeler_id)
    return {item["question_id"]: item["lease_token"] for item in answer.json()["items"]}


def _refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_nobody_sees_the_others_answers_before_the_text_is_decided(ready: Service) -> None:
    [question] = _overlapping(ready, 3)
    first = ready.label(question, LABELS[0], "ana").json()
    assert (first["label"], first["twins"], first["state"]) == (LABELS[0], 0, "unlabelled")
    shown = ready.get(f"{LOOP}/questions/{question}").json()
    assert (shown["is_labeled"], shown["correct_intent"], shown["labeler_id"]) == (False, None, None)
    told = ready.get(f"{LOOP}/questions/unlabeled", labeler_id="bo").text + ready.get(f"{LOOP}/stats").text
    assert "ana" not in told
    assert ready.get(f"{LOOP}/questions/disputed").json() == {"items": [], "next_cursor": None}
    assert ready.get(f"{LOOP}/stats").json()["labelled"] == 0

    ready.label(question, LABELS[1], "bo")
    last = ready.label(question, LABELS[0], "cy").json()
    assert (last["state"], last["twins"]) == ("labelled", 1)
    assert ready.get(f"{LOOP}/questions/{question}").json()["correct_intent"] == [LABELS[0]]


def test_a_person_decides_a_dispute(ready: Service) -> None:
    questions = _overlapping(ready, texts=3)
    for question in questions:
        ready.label(question, LABELS[0], "ana")
        assert ready.label(question, LABELS[1], "bo").json()["state"] == "disputed"
    assert ready.get(f"{LOOP}/stats").json()["texts_disputed"] == 3

    page = ready.get(f"{LOOP}/questions/disputed", limit=2).json()
    rest = ready.get(f"{LOOP}/questions/disputed", limit=2, cursor=page["next_cursor"]).json()
    assert {item["question_id"] for item in page["items"] + rest["items"]} == set(questions)
    assert rest["next_cursor"] is None
    [item] = rest["items"]
    assert item["by_label"] == {LABELS[0]: 1, LABELS[1]: 1}
    assert {answer["labeler_id"]: answer["label"] for answer in item["answers"]} == {"ana": LABELS[0], "bo": LABELS[1]}

    assert _refused(ready.label(questions[0], LABELS[2], "cy")) == (409, "disputed")
    decided = ready.label(questions[0], LABELS[2], "cy", adjudicate=True)
    assert decided.json()["state"] == "labelled"
    assert ready.get(f"{LOOP}/questions/{questions[0]}").json()["correct_intent"] == [LABELS[2]]
    assert _refused(ready.label(_overlapping(ready)[0], LABELS[0], "cy", adjudicate=True)) == (409, "not_disputed")

    told = ready.get(f"{LOOP}/agreement").json()
    assert (told["texts"], told["answers"], told["share"]) == (3, 6, 0.0)
    assert told["alpha"] < 0
    assert [row["label"] for row in told["labels"]] == sorted(LABELS[:2])
    assert {row["labeler_id"] for row in told["labelers"]} == {"ana", "bo"}


def test_without_blind_answers_agreement_says_nothing(ready: Service) -> None:
    told = ready.get(f"{LOOP}/agreement").json()
    assert told == {
        "domain": "default", "texts": 0, "answers": 0, "share": None, "alpha": None, "low": None, "high": None,
        "labels": [], "labelers": [],
    }  # fmt: skip


def test_with_keys_names_are_for_admins_and_a_labeler_decides_nothing_of_their_own(service: Service) -> None:
    service.put_taxonomy()
    [question] = _overlapping(service)
    service.label(question, LABELS[0], "ana")
    service.label(question, LABELS[1], "bo")
    made = {
        name: _work(service)(keys.create, role, name=name, by=COMMAND_LINE)[1]
        for name, role in (("ana", "labeler"), ("cy", "labeler"), ("chief", "admin"))
    }
    wait_for(lambda: service.services.keys.guarded)
    header = {name: {"Authorization": f"Bearer {credential}"} for name, credential in made.items()}

    def names(who: str) -> set[str | None]:
        answer = service.http.get(f"{LOOP}/questions/disputed", headers=header[who])
        return {given["labeler_id"] for item in answer.json()["items"] for given in item["answers"]}

    def decide(who: str, labeler_id: str) -> Any:
        body = {"correct_intent": [LABELS[0]], "labeler_id": labeler_id, "adjudicate": True}
        return service.post(f"{LOOP}/questions/{question}/label", body, headers=header[who])

    assert (names("cy"), names("chief")) == ({None}, {"ana", "bo"})
    assert service.http.get(f"{LOOP}/agreement", headers=header["cy"]).status_code == 403
    assert _refused(decide("ana", "ana")) == (409, "disputed")
    assert decide("chief", "ana").status_code == 200


def test_a_late_writer_changes_nothing_on_any_path(ready: Service) -> None:
    [question] = ask(_work(ready), trainable_text("甲"))
    old = _leased(ready, "ana")[question]
    expire_leases(_work(ready))
    new = _leased(ready, "bo")[question]
    assert old != new
    base = f"{LOOP}/questions/{question}"
    late = {"labeler_id": "ana", "lease_token": old}

    def write_late() -> list[tuple[int, str]]:
        labelled = ready.label(question, LABELS[0], "ana", lease_token=old)
        return [_refused(labelled)] + [_refused(ready.post(f"{base}/{path}", late)) for path in ("skip", "discard")]

    assert {status for status, _ in write_late()} == {409}
    assert _refused(ready.post(f"{base}/flag", late)) == (409, "lease_lost")
    assert _refused(ready.post(f"{base}/release", late)) == (409, "leased")
    # bo hands it back: nobody holds it, and the token of before is still none.
    ready.post(f"{base}/release", {"labeler_id": "bo", "lease_token": new}).raise_for_status()
    assert set(write_late()) == {(409, "lease_lost")}
    ready.label(question, LABELS[1], "bo").raise_for_status()
    assert {status for status, _ in write_late()} == {409}
    assert ready.get(base).json()["correct_intent"] == [LABELS[1]]


def test_discard_takes_a_question_out_for_good_and_undo_brings_it_back(ready: Service) -> None:
    [question] = ask(_work(ready), trainable_text("甲"))
    base = f"{LOOP}/questions/{question}"
    answer = ready.post(f"{base}/discard", {"labeler_id": "ana", "reason": "打错了 13812345678"})
    assert answer.json() == {"question_id": question, "state": "discarded"}
    assert _refused(ready.label(question, LABELS[0], "bo")) == (409, "discarded")
    stats = ready.get(f"{LOOP}/stats").json()
    assert (stats["texts_discarded"], stats["queue"]) == (1, 0)
    assert ready.get(f"{LOOP}/questions/unlabeled").json()["items"] == []

    undone = ready.post(f"{LOOP}/labels/undo", {"labeler_id": "ana", "count": 5}).json()
    [one] = undone["undone"]
    assert (one["question_id"], one["kind"], one["state"]) == (question, "discard", "unlabelled")
    assert undone["superseded"] == []
    assert ready.label(question, LABELS[0], "bo").status_code == 200


def test_the_last_answers_are_taken_back_and_those_that_were_replaced_are_told(ready: Service) -> None:
    first, second = ask(_work(ready), trainable_text("甲"), trainable_text("甲"))
    mine = ready.label(first, LABELS[0]).json()["annotation_id"]
    ready.label(second, LABELS[0])
    other = ready.label(first, LABELS[1], "bo", supersedes=mine).json()["annotation_id"]
    undone = ready.post(f"{LOOP}/labels/undo", {"labeler_id": "ana", "count": 2}).json()
    assert [one["question_id"] for one in undone["undone"]] == [second]
    assert undone["superseded"] == [{"question_id": first, "annotation_id": other}]
    for body in ({"labeler_id": "ana"}, {"labeler_id": "ana", "count": 0}, {"labeler_id": "ana", "count": 101}):
        assert ready.post(f"{LOOP}/labels/undo", body).status_code == 422


def test_a_flagged_question_is_listed_until_somebody_has_looked(ready: Service) -> None:
    questions = ask(_work(ready), *[trainable_text("甲") for _ in range(3)])
    for question in questions:
        answer = ready.post(
            f"{LOOP}/questions/{question}/flag", {"labeler_id": "ana", "reason": "他的电话 13812345678 写错了"}
        )
        assert answer.json() == {"question_id": question, "state": "unlabelled", "is_flagged": True}
    assert ready.get(f"{LOOP}/stats").json()["texts_flagged"] == 3
    page = ready.get(f"{LOOP}/questions/flagged", limit=2).json()
    rest = ready.get(f"{LOOP}/questions/flagged", limit=2, cursor=page["next_cursor"]).json()
    assert {item["question_id"] for item in page["items"] + rest["items"]} == set(questions)
    [flag] = rest["items"][0]["flags"]
    assert flag["labeler_id"] == "ana"
    assert "13812345678" not in flag["reason"]

    gone = ready.http.delete(f"{LOOP}/questions/{questions[0]}/flag", params={"labeler_id": "bo"})
    assert gone.json()["is_flagged"] is False
    again = ready.http.delete(f"{LOOP}/questions/{questions[0]}/flag", params={"labeler_id": "bo"})
    assert _refused(again) == (409, "nothing_to_undo")
    assert len(ready.get(f"{LOOP}/questions/flagged").json()["items"]) == 2
