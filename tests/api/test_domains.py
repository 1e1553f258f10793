"""Domains and taxonomies over HTTP, and the 404 of a domain that is not there."""

import re

import pytest

from tests.api.conftest import LOOP, Service
from tests.serving.artifacts import LABELS


def test_domain_is_made_with_its_defaults(any_service: Service) -> None:
    answer = any_service.post(f"{LOOP}/domains", {"name": "after-sales_2"})
    assert answer.status_code == 201
    made = answer.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", made.pop("created_at"))
    assert made == {
        "name": "after-sales_2", "task": "single_label", "keep_text": True, "gate": "auto", "recipe": "ngram",
        "base_model": None, "rule_policy": "auto", "threshold_policy": "sweep",
        "selection_mix": None, "confusion_pairs": None, "overlap": 1, "overlap_share": 1.0,
        "taxonomy_version": 0, "active_version": None, "epoch": 0,
    }  # fmt: skip
    listed = any_service.get(f"{LOOP}/domains").json()
    assert [domain["name"] for domain in listed["items"]] == ["default", "after-sales_2"]
    assert listed["next_cursor"] is None
    again = any_service.post(f"{LOOP}/domains", {"name": "after-sales_2"})
    assert (again.status_code, again.json()["code"]) == (409, "domain_exists")


def test_a_domain_changes_how_it_trains_and_says_who_changed_it(any_service: Service) -> None:
    address = f"{LOOP}/domains/default"
    refused = any_service.http.patch(address, json={"recipe": "head"})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_base_model")
    assert any_service.get(f"{LOOP}/domains").json()["items"][0]["recipe"] == "ngram"

    changed = any_service.http.patch(address, json={"recipe": "head", "base_model": "owner/tiny", "gate": None})
    assert (changed.json()["recipe"], changed.json()["base_model"]) == ("head", "owner/tiny")
    assert changed.json()["gate"] == "auto"
    batch = any_service.post(f"{LOOP}/batches", {"recipe": "lora"})
    assert batch.json()["code"] != "no_base_model"
    assert any_service.http.patch(address, json={"threshold_policy": "risk"}).json()["threshold_policy"] == "risk"
    assert any_service.http.patch(f"{LOOP}/domains/nowhere", json={}).status_code == 404
    assert any_service.http.patch(address, json={"overlap": 3, "overlap_share": 0.2}).json()["overlap"] == 3
    for body in (
        {"recipe": "bert"}, {"threshold_policy": "luck"}, {"base_model": ""}, {"base_model": "x" * 256}, [],
        {"overlap": 0}, {"overlap": 10}, {"overlap": True}, {"overlap_share": 1.1}, {"overlap_share": -0.1},
    ):  # fmt: skip
        assert any_service.http.patch(address, json=body).status_code == 422


def test_a_domain_says_by_which_mix_it_asks_and_which_labels_are_confused(any_service: Service) -> None:
    any_service.put_taxonomy("在产批次", "原料批次", "发货")
    address = f"{LOOP}/domains/default"
    mix = {"cluster_margin": 0.5, "suspect": 0.5}
    changed = any_service.http.patch(
        address, json={"selection_mix": mix, "confusion_pairs": [["在产批次", "原料批次"], ["原料批次", "在产批次"]]}
    ).json()
    assert changed["selection_mix"] == mix
    assert changed["confusion_pairs"] == [sorted(["在产批次", "原料批次"])]
    # What is left out stays, and what is empty is as at first.
    assert any_service.http.patch(address, json={"gate": "manual"}).json()["selection_mix"] == mix
    emptied = any_service.http.patch(address, json={"selection_mix": {}, "confusion_pairs": []}).json()
    assert (emptied["selection_mix"], emptied["confusion_pairs"]) == (None, None)

    made = any_service.post(f"{LOOP}/domains", {"name": "shop", "selection_mix": {"random": 1}})
    assert made.json()["selection_mix"] == {"random": 1.0}


@pytest.mark.parametrize(
    ("change", "status", "code", "told"),
    [
        ({"selection_mix": {"luck": 1.0}}, 422, "mix_invalid", "cluster_margin"),
        ({"selection_mix": {"margin": 0.5}}, 422, "mix_invalid", "sum to 1"),
        ({"selection_mix": {"margin": 1.5, "far": -0.5}}, 422, "validation_error", ""),
        ({"selection_mix": {"margin": "1"}}, 422, "validation_error", ""),
        ({"selection_mix": {"margin": True}}, 422, "validation_error", ""),
        ({"selection_mix": {"x" * 33: 1.0}}, 422, "validation_error", ""),
        ({"selection_mix": ["margin"]}, 422, "validation_error", ""),
        ({"confusion_pairs": [[LABELS[0], LABELS[0]]]}, 422, "validation_error", "two different"),
        ({"confusion_pairs": [[LABELS[0]]]}, 422, "validation_error", ""),
        ({"confusion_pairs": [[LABELS[0], LABELS[1], LABELS[0]]]}, 422, "validation_error", ""),
        ({"confusion_pairs": [[LABELS[0], LABELS[1] + "了"]]}, 422, "unknown_label", LABELS[1]),
        ({"confusion_pairs": [list(LABELS[:2])] * 101}, 422, "validation_error", ""),
    ],
)  # fmt: skip
def test_a_mix_or_a_pair_that_cannot_be_is_refused_and_changes_nothing(
    calm: Service, change: dict[str, object], status: int, code: str, told: str
) -> None:
    answer = calm.http.patch(f"{LOOP}/domains/default", json=change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert told in answer.text
    [domain] = calm.get(f"{LOOP}/domains").json()["items"]
    assert (domain["selection_mix"], domain["confusion_pairs"]) == (None, None)


def test_a_new_domain_has_no_labels_that_could_be_confused(service: Service) -> None:
    answer = service.post(f"{LOOP}/domains", {"name": "shop", "confusion_pairs": [["甲", "乙"]]})
    assert (answer.status_code, answer.json()["code"]) == (409, "taxonomy_empty")
    assert [domain["name"] for domain in service.get(f"{LOOP}/domains").json()["items"]] == ["default"]


def test_a_domain_is_made_with_a_policy_of_its_threshold(service: Service) -> None:
    made = service.post(f"{LOOP}/domains", {"name": "careful", "threshold_policy": "risk"}).json()
    assert made["threshold_policy"] == "risk"


def test_multi_label_domain_is_refused_with_a_clear_message(service: Service) -> None:
    answer = service.post(f"{LOOP}/domains", {"name": "many", "task": "multi_label"})
    assert (answer.status_code, answer.json()["code"]) == (422, "task_unsupported")
    assert "single_label" in answer.json()["detail"]
    assert "many" not in [domain["name"] for domain in service.get(f"{LOOP}/domains").json()["items"]]


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": "A"}, {"name": "a b"}, {"name": "-a"}, {"name": "a" * 49}, {"name": "a\x00"},
     {"name": "域"}, {"name": "a\n"}, {"name": None}, {"name": "ok", "gate": "never"}, {"name": "ok", "recipe": "bert"},
     {"name": "ok", "keep_text": "no"}, {"name": "ok", "task": "ner"}, {"name": "a" * 201},
     {"name": "ok", "threshold_policy": "luck"}],
)  # fmt: skip
def test_domain_that_cannot_be_is_refused(calm: Service, body: dict[str, object]) -> None:
    answer = calm.post(f"{LOOP}/domains", body)
    assert answer.status_code == 422
    assert len(calm.get(f"{LOOP}/domains").json()["items"]) == 1


@pytest.mark.parametrize("domain", ["nowhere", "default ", "Default", "a\x00b", "域", "' OR 1=1 --", ""])
def test_unknown_domain_is_404_everywhere(any_service: Service, domain: str) -> None:
    http = any_service.http
    answers = [
        http.post("/classify", json={"text": "x", "domain": domain}),
        http.post("/classify/batch", json={"texts": ["x"], "domain": domain}),
        http.post(f"{LOOP}/questions", json={"question": "x", "domain": domain}),
        http.get(f"{LOOP}/questions/unlabeled", params={"domain": domain}),
        http.get(f"{LOOP}/questions/unlabeled", params={"domain": domain, "labeler_id": "ana"}),
        http.get(f"{LOOP}/stats", params={"domain": domain}),
        http.get(f"{LOOP}/taxonomy", params={"domain": domain}),
        http.put(f"{LOOP}/taxonomy", params={"domain": domain}, json=["甲"]),
        http.get(f"{LOOP}/batches", params={"domain": domain}),
        http.post(f"{LOOP}/batches", json={"domain": domain}),
        http.get(f"{LOOP}/models", params={"domain": domain}),
        http.get(f"{LOOP}/models/active", params={"domain": domain}),
        http.post(f"{LOOP}/models/rollback", json={"domain": domain}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "domain_not_found")] * 13
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


@pytest.mark.parametrize(
    "taxonomy",
    [{"root": {"硬件故障": {"电源问题": ["无法开机"]}, "售后服务": ["退货"], "其他": None}}, list(LABELS),
     {"labels": list(LABELS)}, {"硬件故障": {"电源问题": ["无法开机"]}, "售后服务": ["退货"], "其他": []},
     [{"path": LABELS[0]}, {"path": LABELS[1]}, "其他"]],
)  # fmt: skip
def test_taxonomy_is_read_in_all_its_forms(service: Service, taxonomy: object) -> None:
    answer = service.http.put(f"{LOOP}/taxonomy", json=taxonomy)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"domain", "version", "labels"}
    assert [label["label"] for label in body["labels"]] == list(LABELS)
    assert body["labels"][0] == {
        "id": 1, "label": LABELS[0], "path": LABELS[0].split(" > "), "status": "active", "guideline": None,
    }  # fmt: skip
    assert service.get(f"{LOOP}/taxonomy").json() == body


def test_label_keeps_its_id_and_one_that_leaves_is_retired(service: Service) -> None:
    ids = {label["label"]: label["id"] for label in service.put_taxonomy("甲", "乙")}
    after = {label["label"]: (label["id"], label["status"]) for label in service.put_taxonomy("乙", "丙")}
    assert after["乙"] == (ids["乙"], "active")
    assert after["甲"] == (ids["甲"], "retired")
    assert after["丙"][1] == "active"


@pytest.mark.parametrize(
    "taxonomy",
    [[], {}, None, "甲", 5, [1], [None], ["甲", "甲"], ["甲", "甲 > 乙"], {"root": {"a > b": ["c"]}}, {"root": 5},
     ["x" * 101], [" > "], ["a > "], {"a": {"b": 5}}, [{"path": 1}], ["\x00\u200b" * 400], [["a"]],
     [f"l{i}" for i in range(10_001)], {"x" * 1_000_000: ["y"]}],
)  # fmt: skip
def test_taxonomy_that_cannot_be_read_is_refused_whole_and_in_short(service: Service, taxonomy: object) -> None:
    service.put_taxonomy("甲", "乙")
    answer = service.http.put(f"{LOOP}/taxonomy", json=taxonomy)
    assert answer.status_code == 422, answer.text[:300]
    assert answer.json()["code"] in ("taxonomy_invalid", "validation_error")
    assert len(answer.content) < 4_000
    assert [label["label"] for label in service.get(f"{LOOP}/taxonomy").json()["labels"]] == ["甲", "乙"]
