"""Keyword rules over HTTP: written, listed, changed, retired, and mined in a process that holds nobody up."""

import threading
import time

import pytest

from app import extraction
from app.db.tables import AuditEvent
from app.errors import IntentError
from app.extraction import Extraction, plain
from app.services.audit import Actor
from app.settings import Settings
from tests.api.conftest import LOOP, SECRET, Service, served, wait_for
from tests.builders import column, make_labelled_texts

KEYWORDS = f"{LOOP}/keywords"
POWER, SCREEN = "硬件故障 > 电源问题 > 无法开机", "硬件故障 > 屏幕"


@pytest.fixture
def shop(service: Service) -> Service:
    service.put_taxonomy(POWER, SCREEN)
    return service


def write(service: Service, keyword: str | None = "开机", intent: str = POWER, status: int = 201, **fields):
    body = {"intent": intent, **({"keyword": keyword} if keyword else {}), **fields}
    answer = service.post(KEYWORDS, body)
    assert answer.status_code == status, answer.text
    return answer.json()


def patch(service: Service, rule_id: object, **changes):
    return service.http.patch(f"{KEYWORDS}/{rule_id}", json=changes)


# Writing


def test_a_rule_is_answered_as_it_is_kept(shop):
    rule = write(shop, "  开 机 ", none_of=["能开机"])
    assert (rule["keyword"], rule["all_of"], rule["none_of"]) == ("开 机", ["开 机"], ["能开机"])
    assert (rule["intent"], rule["status"], rule["source"], rule["created_by"]) == (POWER, "active", "manual", "local")
    assert (rule["usage_count"], rule["judged_count"], rule["success_rate"], rule["conflicts"]) == (0, 0, None, [])
    assert shop.get(KEYWORDS).json() == {"items": [rule], "next_cursor": None}


def test_a_repeated_request_is_answered_with_the_rule_that_is_there(shop):
    first = write(shop)
    assert write(shop, status=200)["id"] == first["id"]
    assert column(shop.services.work, AuditEvent.action)[1:] == ["rule.create"]


def test_two_labels_on_one_keyword_are_named(shop):
    first, second = write(shop), write(shop, intent=SCREEN)
    assert second["conflicts"] == [{"id": first["id"], "intent": POWER, "status": "active", "source": "manual"}]
    listed = {rule["id"]: rule["conflicts"] for rule in shop.get(KEYWORDS).json()["items"]}
    assert [rule["id"] for rule in listed[first["id"]]] == [second["id"]]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"keyword": "开机"}, 422, "validation_error"),
        ({"keyword": "", "intent": POWER}, 422, "validation_error"),
        ({"intent": POWER}, 422, "rule_invalid"),
        ({"keyword": "开机", "intent": "天气"}, 422, "unknown_label"),
        ({"keyword": "开机", "intent": POWER, "pattern": "("}, 422, "rule_invalid"),
        ({"keyword": "开机", "intent": POWER, "none_of": ["开"]}, 422, "rule_invalid"),
        ({"keyword": "开机", "intent": POWER, "all_of": "开机"}, 422, "validation_error"),
        ({"keyword": "开机", "intent": POWER, "all_of": ["a"] * 9}, 422, "validation_error"),
        ({"keyword": "开机", "intent": POWER, "status": "retired"}, 422, "validation_error"),
        ({"keyword": "开机", "intent": POWER, "domain": "nowhere"}, 404, "domain_not_found"),
    ],
    ids=str,
)
def test_what_cannot_be_a_rule_is_a_problem_and_leaves_none(shop, body, status, code):
    answer = shop.post(KEYWORDS, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert shop.get(KEYWORDS).json()["items"] == []


def test_another_rule_of_the_same_name_is_409_and_named(shop):
    rule = write(shop)
    answer = shop.post(KEYWORDS, {"keyword": "开机", "intent": POWER, "all_of": ["开机", "黑屏"]})
    assert (answer.status_code, answer.json()["code"], answer.json()["rule_id"]) == (409, "rule_exists", rule["id"])


# Changing


def test_a_rule_is_changed_where_the_request_says_so(shop):
    rule = write(shop, "开机", all_of=["手机", "开机"])
    changed = patch(shop, rule["id"], pattern="[0-9]+天", status="candidate").json()
    assert (changed["pattern"], changed["status"], changed["all_of"]) == ("[0-9]+天", "candidate", ["手机", "开机"])
    cleared = patch(shop, rule["id"], pattern=None).json()
    assert (cleared["pattern"], cleared["status"]) == (None, "candidate")
    assert patch(shop, rule["id"]).json() == cleared


def test_a_retired_rule_keeps_its_row(shop):
    rule = write(shop)
    retired = shop.http.delete(f"{KEYWORDS}/{rule['id']}")
    assert (retired.status_code, retired.json()["status"]) == (200, "retired")
    assert shop.http.delete(f"{KEYWORDS}/{rule['id']}").json() == retired.json()
    assert patch(shop, rule["id"], status="active").json()["retired_at"] is None
    assert column(shop.services.work, AuditEvent.action, AuditEvent.subject)[1:] == [
        (action, f"rule {rule['id']}") for action in ("rule.create", "rule.retire", "rule.change")
    ]


@pytest.mark.parametrize("rule_id", ["4711", "0", "abc", "9" * 30, "-1"])
def test_an_unknown_rule_is_404(calm, rule_id):
    assert patch(calm, rule_id, status="retired").status_code == 404
    assert calm.http.delete(f"{KEYWORDS}/{rule_id}").status_code == 404


# Listing


def test_rules_are_found_by_what_they_are_page_by_page(shop):
    ids = [write(shop, word)["id"] for word in ("开机", "充电", "WiFi")]
    write(shop, "屏幕", SCREEN)
    shop.http.delete(f"{KEYWORDS}/{ids[1]}")

    def found(**parameters):
        return [rule["keyword"] for rule in shop.get(KEYWORDS, **parameters).json()["items"]]

    assert found(intent=POWER, status="active") == ["wifi", "开机"]
    assert found(keyword=" ＷiFi") == ["wifi"]
    assert found(source="mined") == []
    first = shop.get(KEYWORDS, limit=3).json()
    assert len(first["items"]) == 3
    assert found(cursor=first["next_cursor"]) == ["开机"]


@pytest.mark.parametrize(
    "parameters",
    [{"status": "dead"}, {"source": "x"}, {"cursor": "x"}, {"limit": 0}, {"keyword": "x" * 1001}],
    ids=str,
)
def test_a_list_that_cannot_be_meant_is_422(calm, parameters):
    assert calm.get(KEYWORDS, **parameters).status_code == 422


@pytest.mark.parametrize("value", ["\x00", "退\x00款"], ids=["nul", "nul inside"])
def test_a_filter_that_no_database_holds_finds_nothing(any_service, value):
    assert any_service.get(KEYWORDS, keyword=value, intent=value).json()["items"] == []


# Mining


def test_rules_are_mined_by_a_process_and_answered(sqlite_url, tmp_path):
    with served(sqlite_url, tmp_path) as service:
        make_labelled_texts(service.services.work, {"退款": 40, "换货": 40})
        answer = service.http.post(f"{KEYWORDS}/extract", params={"min_confidence": 0.9, "limit": 5})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert 2 <= body["mined"] == body["new"] == len(body["items"]) <= 5
        best = {rule["keyword"]: rule for rule in body["items"]}["退款"]
        assert (best["intent"], best["status"], best["source"], best["created_by"]) == (
            "退款",
            "active",
            "mined",
            "local",
        )
        assert best["precision"] == 1.0
        assert best["support"] == 40
        asked = service.get(f"{LOOP}/questions/{best['examples'][0]}").json()
        assert "退款" in asked["question"]
        again = service.http.post(f"{KEYWORDS}/extract", params={"min_confidence": 0.9, "limit": 5}).json()
        assert (again["new"], again["updated"], again["activated"]) == (0, body["new"], 0)
        mined = [
            row for row in column(service.services.work, AuditEvent.action, AuditEvent.actor) if row[0] == "rules.mine"
        ]
        assert mined == [("rules.mine", "local")] * 2


@pytest.mark.parametrize(
    ("parameters", "status"),
    [({"min_confidence": 0.4}, 422), ({"limit": 0}, 422), ({"limit": 10_001}, 422), ({"domain": "nowhere"}, 404)],
    ids=str,
)
def test_what_cannot_be_mined_is_a_problem(calm, parameters, status):
    assert calm.http.post(f"{KEYWORDS}/extract", params=parameters).status_code == status


def test_a_domain_without_texts_is_409(service):
    service.post(f"{LOOP}/domains", {"name": "hashes", "keep_text": False})
    answer = service.http.post(f"{KEYWORDS}/extract", params={"domain": "hashes"})
    assert (answer.status_code, answer.json()["code"]) == (409, "no_texts")


PATIENT = "import sys, time; sys.stdin.readline(); time.sleep(60)"


@pytest.fixture
def slow(monkeypatch, tmp_path):
    """An extraction whose process takes a minute."""

    def start():
        import subprocess
        import sys

        return subprocess.Popen([sys.executable, "-c", PATIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(extraction, "_start", start)
    made = Extraction(Settings(_env_file=None, data_dir=tmp_path, mine_timeout_seconds=30))
    yield made
    made.close()


def begin(slow: Extraction, domain: str = "default") -> tuple[threading.Thread, list[IntentError]]:
    raised: list[IntentError] = []

    def mine() -> None:
        try:
            slow(domain, min_confidence=0.8, limit=10, by=Actor("ana"))
        except IntentError as error:
            raised.append(error)

    thread = threading.Thread(target=mine)
    thread.start()
    wait_for(lambda: slow._running.get(domain))
    return thread, raised


def test_a_second_mining_of_the_same_domain_is_refused_and_another_domain_is_not(slow):
    first, _ = begin(slow)
    with pytest.raises(IntentError) as refused:
        slow("default", min_confidence=0.8, limit=10, by=Actor("ana"))
    assert (refused.value.status_code, refused.value.code) == (409, "extraction_running")
    other, _ = begin(slow, "other")
    slow.close()
    for thread in (first, other):
        thread.join(10)
        assert not thread.is_alive()


def test_a_service_that_shuts_down_ends_what_it_mines_and_begins_nothing(slow):
    thread, raised = begin(slow)
    slow.close()
    thread.join(10)
    assert [error.status_code for error in raised] == [503]
    with pytest.raises(IntentError, match="shuts down"):
        slow("default", min_confidence=0.8, limit=10, by=Actor("ana"))


def test_mining_that_takes_too_long_is_stopped(slow, tmp_path):
    slow._settings = Settings(_env_file=None, data_dir=tmp_path, mine_timeout_seconds=1.01)
    start = time.monotonic()
    with pytest.raises(IntentError, match="was stopped after"):
        slow("default", min_confidence=0.8, limit=10, by=Actor("ana"))
    assert time.monotonic() - start < 50, "it waited for the process to end by itself"
    # And the next one may begin.
    thread, _ = begin(slow)
    slow.close()
    thread.join(10)


def test_the_process_gets_every_setting_as_it_is_and_the_secrets(tmp_path):
    given = Settings(_env_file=None, data_dir=tmp_path, secret_key=SECRET, database_url="sqlite:///x", batch_labels=7)
    assert Settings(_env_file=None, **plain(given)) == given
