"""Changes of a taxonomy over HTTP: tried, made, listed, taken back, and refused with a reason."""

from typing import Any

import httpx
import pytest

from app.services import taxonomy_changes
from tests.api.conftest import LOOP, Service
from tests.builders import ask, column, make_labelled_texts, trainable_text

CHANGES = f"{LOOP}/taxonomy/changes"


def _change(service: Service, kind: str, **more: Any) -> httpx.Response:
    return service.post(CHANGES, {"kind": kind, **more})


def _labels(service: Service) -> dict[str, str]:
    return {row["label"]: row["status"] for row in service.get(f"{LOOP}/taxonomy").json()["labels"]}


def test_a_change_is_tried_then_made_then_taken_back(any_service: Service) -> None:
    make_labelled_texts(any_service.services.work, {"退款": 2, "换货": 1})
    body = {"kind": "merge", "labels": ["退款"], "to": "换货", "reason": "客户 13812345678 分不清"}
    tried = any_service.post(CHANGES, body | {"dry_run": True}).json()
    assert tried == {
        "id": None, "kind": "merge", "taxonomy_version": 1, "dry_run": True,
        "touched": {"labels": 1, "texts": 2, "gold_texts": 0, "questions": 2, "annotations": 2, "rules": 0,
                    "waiting_texts": 0, "batches": []},
    }  # fmt: skip
    assert _labels(any_service) == {"退款": "active", "换货": "active"}
    assert any_service.get(CHANGES).json() == {"items": [], "next_cursor": None}

    made = any_service.post(CHANGES, body).json()
    assert made == tried | {"id": made["id"], "dry_run": False, "taxonomy_version": 2}
    assert _labels(any_service) == {"退款": "retired", "换货": "active"}

    undone = any_service.post(f"{CHANGES}/{made['id']}/undo").json()
    assert undone == {"id": made["id"], "kind": "merge", "restored_texts": 2, "kept_texts": 0, "taxonomy_version": 3}
    [listed] = any_service.get(CHANGES).json()["items"]
    assert (listed["kind"], listed["made_by"], listed["undone_by"]) == ("merge", "local", "local")
    assert listed["arguments"] == {"labels": ["退款"], "to": "换货", "into": [], "texts": "keep"}
    assert "13812345678" not in listed["reason"]
    again = any_service.post(f"{CHANGES}/{made['id']}/undo")
    assert (again.status_code, again.json()["code"]) == (409, "changed_since")


def test_the_history_is_paged(service: Service) -> None:
    service.put_taxonomy("甲", "乙")
    for old, new in (("甲", "丙"), ("丙", "丁"), ("乙", "戊")):
        assert _change(service, "rename", label=old, to=new).status_code == 200
    first = service.get(CHANGES, limit=2).json()
    second = service.get(CHANGES, limit=2, cursor=first["next_cursor"]).json()
    paths = [item["arguments"]["to"] for page in (first, second) for item in page["items"]]
    assert paths == ["戊", "丁", "丙"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"kind": "rename", "label": "没有", "to": "丙"}, 422, "unknown_label"),
        ({"kind": "rename", "label": "甲", "to": "乙"}, 409, "label_exists"),
        ({"kind": "rename", "label": "甲"}, 422, "taxonomy_invalid"),
        ({"kind": "rename", "to": "丙"}, 422, "validation_error"),
        ({"kind": "rename", "label": "甲", "labels": ["乙"], "to": "丙"}, 422, "validation_error"),
        ({"kind": "rename", "label": "甲", "to": " "}, 422, "validation_error"),
        ({"kind": "rename", "label": "甲", "to": "长" * 300}, 422, "taxonomy_invalid"),
        ({"kind": "erase", "label": "甲"}, 422, "validation_error"),
        ({"kind": "retire", "label": "甲", "texts": "burn"}, 422, "validation_error"),
        ({"kind": "retire", "labels": ["甲", "乙"]}, 422, "taxonomy_invalid"),
        ({"kind": "split", "label": "甲", "into": ["丙"]}, 422, "taxonomy_invalid"),
        ({"kind": "split", "label": "甲", "into": ["乙 > 丙", "丁"]}, 422, "taxonomy_invalid"),
        ({"kind": "rename", "label": "甲", "to": "丙", "domain": "nowhere"}, 404, "domain_not_found"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_cannot_be_is_refused_alike_tried_or_made(
    service: Service, body: dict[str, Any], status: int, code: str, dry_run: bool
) -> None:
    service.put_taxonomy("甲", "乙")
    answer = service.post(CHANGES, body | {"dry_run": dry_run})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert _labels(service) == {"甲": "active", "乙": "active"}


@pytest.mark.parametrize("change_id", ["999999", "0", "x", "9" * 30, "-1"])
def test_undo_of_no_change_is_not_found(service: Service, change_id: str) -> None:
    answer = service.post(f"{CHANGES}/{change_id}/undo")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_what_is_split_is_handed_out_first_with_the_old_label_in_words(service: Service) -> None:
    work = service.services.work
    make_labelled_texts(work, {"退款": 1, "换货": 1})
    ask(work, *[trainable_text("换货") for _ in range(3)])
    split = _change(service, "split", label="退款", into=["退款 > 质量", "退款 > 七天"]).json()
    assert split["touched"]["texts"] == 1
    [item] = service.get(f"{LOOP}/questions/unlabeled", limit=1).json()["items"]
    assert item["reason"] == "was labelled 退款 before it was split into 退款 > 质量, 退款 > 七天"
    assert (item["strategy"], item["priority"]) == ("split", 1.5)
    assert service.label(item["question_id"], "退款 > 七天").status_code == 200


def test_a_change_that_fails_half_way_leaves_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    make_labelled_texts(service.services.work, {"退款": 2, "换货": 1})

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(taxonomy_changes.taxonomy, "changed", fail)
    assert _change(service, "merge", label="退款", to="换货").status_code == 500
    assert _labels(service) == {"退款": "active", "换货": "active"}
    assert column(service.services.work, taxonomy_changes.TaxonomyChange.id) == []
