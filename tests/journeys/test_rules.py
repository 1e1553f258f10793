"""Rules over HTTP beside the loop: they answer before any model does, help it, are counted, and stop when retired."""

from collections.abc import Iterator

import pytest

from tests.journeys.processes import API, Installation, installation, wait_for
from tests.journeys.test_loop import ask_and_label
from tests.journeys.worlds import LABELS, PARCEL, traffic

INVOICE = "费用 > 发票"
QUESTION = "发票抬头写错了怎么改"


@pytest.fixture(scope="module")
def running(databases, tmp_path_factory) -> Iterator[Installation]:
    """Service and clock on four labels, and no label given yet."""
    folder = tmp_path_factory.mktemp("rules")
    with installation(folder, databases.fresh("sqlite", folder)) as world:
        world.wait_until_ready(world.start("up"))
        world.http.put(f"{API}/taxonomy", json=[*LABELS, INVOICE]).raise_for_status()
        yield world


def answered(world: Installation, text: str = QUESTION) -> dict:
    return world.post("/classify", {"text": text})


def test_rules_answer_alone_until_a_model_does(running):
    assert answered(running)["method"] == "none"
    running.post("/keywords", {"keyword": "快递", "intent": PARCEL}, expect=201)
    answer = wait_for(
        lambda: (found := answered(running, "快递到哪里了"))["label"] and found, seconds=30, what="the rule"
    )
    assert (answer["label"], answer["method"]) == (PARCEL, "keyword_fallback")
    assert answer["route_used"] == ["rules"]
    assert answer["model_version"] is None
    assert answer["trigger_check"] is False
    assert answered(running)["method"] == "none"


def test_with_a_model_both_judge_and_a_rule_names_what_the_model_never_saw(running):
    ask_and_label(running, 150, traffic(1))
    wait_for(lambda: running.get("/stats")["active_version"], what="the first version")
    answer = wait_for(lambda: (found := answered(running))["model_version"] and found, seconds=30, what="the flip")
    assert answer["label"] != INVOICE
    assert answer["method"] == "local_model"
    assert answer["route_used"] == ["rules", "discriminative"]

    rule = running.post("/keywords", {"keyword": "发票", "intent": INVOICE}, expect=201)
    answer = wait_for(
        lambda: (found := answered(running))["label"] == INVOICE and found, seconds=20, what="the proof of the rule"
    )
    assert answer["method"] == "local_model"
    shown = running.get(f"/questions/{answer['question_id']}")
    by_rules = next(verdict for verdict in shown["verdicts"] if verdict["tier"] == "rules")
    assert by_rules["rules"] == [rule["id"]]


def test_use_and_success_of_a_rule_are_counted(running):
    [rule] = [rule for rule in running.get("/keywords")["items"] if rule["keyword"] == "发票"]
    question = answered(running, "发票什么时候开给我")
    running.post(f"/questions/{question['question_id']}/label", {"correct_intent": [INVOICE], "labeler_id": "ana"})

    def counted() -> dict | None:
        found = next(item for item in running.get("/keywords")["items"] if item["id"] == rule["id"])
        return found if found["judged_count"] >= 1 else None

    found = wait_for(counted, seconds=30, what="the count")
    assert found["usage_count"] >= 2
    assert found["success_count"] == 1


def test_a_rule_that_is_taken_away_stops_by_itself(running):
    [rule] = [rule for rule in running.get("/keywords")["items"] if rule["keyword"] == "发票"]
    epoch = running.get("/stats")["epoch"]
    running.http.delete(f"{API}/keywords/{rule['id']}").raise_for_status()
    wait_for(lambda: answered(running)["label"] != INVOICE, seconds=30, what="the end of the rule")
    assert running.get("/stats")["epoch"] > epoch


def test_rules_are_mined_after_a_batch_of_the_clock(running):
    wait_for(
        lambda: [rule for rule in running.get("/keywords")["items"] if rule["source"] == "mined"],
        seconds=30,
        what="mined rules",
    )
