"""`/scenarios`: what was found is listed and shown, made a label or dismissed; and what is refused."""

import pytest

from app.services import scenarios
from app.services.scenarios import Group
from tests.api.conftest import LOOP, Service
from tests.builders import text_of
from tests.services.test_scenarios import NEW, unsure


@pytest.fixture
def proposal(service: Service) -> int:
    """The number of a proposal with seven texts, asked fourteen times."""
    service.put_taxonomy("物流", "售后 > 退款")
    work = service.services.work
    questions = unsure(work, 7)
    ids = work.read(lambda session: [text_of(session, question).id for question in questions])
    work(scenarios.store, "default", [Group(ids, ["运费"])])
    [found] = service.http.get(f"{LOOP}/scenarios").json()["items"]
    return int(found["id"])


def get(service: Service, path: str = "", **query: object) -> dict:
    answer = service.http.get(f"{LOOP}/scenarios{path}", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_proposal_is_listed_with_what_it_takes_to_decide(service: Service, proposal: int) -> None:
    [found] = get(service, status="proposed")["items"]
    assert (found["domain"], found["status"], found["text_count"], found["question_count"]) == (
        "default", "proposed", 7, 14,
    )  # fmt: skip
    assert found["keywords"] == ["运费"]
    assert len(found["typical"]) == 5
    assert all("运费" in text["question"] and text["count"] == 2 and text["question_id"] for text in found["typical"])
    assert (found["label"], found["examples"], found["decided_by"]) == (None, None, None)
    assert get(service, status="accepted")["items"] == []


def test_its_members_come_page_by_page(service: Service, proposal: int) -> None:
    first = get(service, f"/{proposal}", limit=4)
    second = get(service, f"/{proposal}", limit=4, cursor=first["next_cursor"])
    questions = [item["question_id"] for page in (first, second) for item in page["items"]]
    assert (len(set(questions)), second["next_cursor"]) == (7, None)
    assert {item["state"] for item in first["items"]} == {"unlabelled"}
    assert first["items"][0]["intents"] == ["物流"]


def test_accepting_brings_its_questions_to_the_top_and_counts_its_examples(service: Service, proposal: int) -> None:
    answer = service.post(f"{LOOP}/scenarios/{proposal}/accept", {"label": NEW, "guideline": "谁付运费"})
    assert answer.status_code == 200, answer.text
    done = answer.json()
    assert (done["status"], done["label"], done["created"], done["queued"]) == ("accepted", NEW, True, 7)
    assert (done["trains_from"], done["examples"], done["decided_by"]) == (50, 0, "local")
    [item] = service.http.get(f"{LOOP}/questions/unlabeled", params={"limit": 1}).json()["items"]
    assert (item["strategy"], item["reason"]) == ("new_scenario", f"looks like the new label {NEW}")
    assert service.label(item["question_id"], NEW).status_code == 200
    assert get(service, f"/{proposal}")["examples"] == 1
    labels = service.http.get(f"{LOOP}/taxonomy").json()["labels"]
    assert {"guideline": "谁付运费", "status": "active"}.items() <= next(x for x in labels if x["label"] == NEW).items()


def test_a_dismissal_is_told_and_a_second_decision_refused(service: Service, proposal: int) -> None:
    assert service.post(f"{LOOP}/scenarios/{proposal}/dismiss").json()["status"] == "dismissed"
    again = service.post(f"{LOOP}/scenarios/{proposal}/dismiss")
    assert (again.status_code, again.json()["code"]) == (409, "scenario_decided")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("{id}/accept", {"label": "物流 > 运费"}, 422),
        ("{id}/accept", {"label": "售后"}, 422),
        ("{id}/accept", {"label": ""}, 422),
        ("{id}/accept", {}, 422),
        ("{id}/accept", {"label": NEW, "guideline": "x" * 4001}, 422),
        ("4711/accept", {"label": NEW}, 404),
        ("x/dismiss", None, 404),
        (f"{10**30}/dismiss", None, 404),
    ],
)
def test_what_cannot_be_done_is_refused(service: Service, proposal: int, path: str, body: object, status: int) -> None:
    answer = service.post(f"{LOOP}/scenarios/{path.replace('{id}', str(proposal))}", body)
    assert answer.status_code == status, answer.text
    assert get(service, f"/{proposal}")["status"] == "proposed"


def test_what_does_not_exist_is_404(service: Service) -> None:
    assert service.http.get(f"{LOOP}/scenarios/4711").status_code == 404
    assert service.http.get(f"{LOOP}/scenarios", params={"domain": "nowhere"}).status_code == 404
    assert service.http.get(f"{LOOP}/scenarios", params={"status": "unknown"}).status_code == 422
