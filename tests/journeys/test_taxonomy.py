"""A taxonomy changes while it is served: no request fails, versions keep their labels, and the next one has the new."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.journeys.processes import NEVER, Installation, installation, wait_for
from tests.journeys.worlds import (
    LABELS,
    PARCEL,
    PASSWORD,
    POWER,
    check_whole,
    label_texts,
    queue_a_batch,
    texts_of,
    traffic,
    truth,
)

NEW_POWER, NEW_PASSWORD = "设备 > 供电", "账户 > 找回密码"
LATE, LOST = "物流 > 快递延误 > 慢", "物流 > 快递延误 > 丢"


@contextmanager
def asked_all_the_time(world: Installation) -> Iterator[list[int]]:
    """Traffic from a thread; the status of every answer."""
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        for text in traffic(3):
            if done.is_set():
                return
            statuses.append(world.http.post("/classify", json={"text": text}).status_code)
            done.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        done.set()
        thread.join()


def _change(world: Installation, kind: str, label: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = world.post("/taxonomy/changes", {"kind": kind, "label": label, **more})
    return made


def _train(world: Installation) -> dict[str, Any]:
    batch = world.post("/batches", {}, expect=201)["batch_id"]
    world.post(f"/batches/{batch}/run", expect=202)

    def ended() -> dict[str, Any] | None:
        row: dict[str, Any] = world.get(f"/batches/{batch}")
        return row if row["training_status"] in ("completed", "failed") else None

    row = wait_for(ended, what=f"the end of {batch}")
    assert row["outcome"] == "activated", row
    version: dict[str, Any] = world.get(f"/models/{row['model_version']}")
    return version


def _answers(world: Installation, label: str) -> list[Any]:
    texts = texts_of(label, 6, seed=77)
    asked = [world.post("/classify", {"text": text})["topk"] for text in texts]
    return [topk[0][0] if topk else None for topk in asked]


def _mostly(found: list[Any], label: str) -> bool:
    return found.count(label) >= 5


def _today(text: str) -> str:
    if truth(text) == PARCEL:
        return LOST if "丢了" in text or "异常" in text else LATE
    return {POWER: NEW_POWER, PASSWORD: NEW_PASSWORD}[truth(text)]


def test_labels_change_under_a_version_that_serves_and_the_next_one_trains_the_new(
    databases: Any, tmp_path: Any
) -> None:
    with installation(tmp_path, databases.fresh("sqlite", tmp_path), TRAIN_CRON=NEVER, SELECT_CRON=NEVER) as world:
        world.wait_until_ready(world.start("up"))
        label_texts(world, 20, gold=4)
        first = _train(world)
        assert sorted(path for _, path in first["taxonomy"]) == sorted(LABELS)
        wait_for(lambda: _mostly(_answers(world, POWER), POWER), what="the first version's answers")
        with asked_all_the_time(world) as statuses:
            _change(world, "rename", POWER, to=NEW_POWER)
            _change(world, "merge", PASSWORD, to=NEW_PASSWORD)
            split = _change(world, "split", PARCEL, into=[LATE, LOST])
            assert split["touched"]["texts"] == 24
            # A renamed label is called by its new name; what was merged or split keeps its own until the next version.
            wait_for(lambda: _mostly(_answers(world, POWER), NEW_POWER), what="the new name")
            assert _mostly(_answers(world, PASSWORD), PASSWORD)
            assert _mostly(_answers(world, PARCEL), PARCEL)
            assert world.get(f"/models/{first['version']}")["taxonomy"] == first["taxonomy"]

            for item in world.get("/questions/unlabeled", limit=100, labeler_id="ana")["items"][:24]:
                assert item["reason"].startswith(f"was labelled {PARCEL} before it was split into")
                answer = {"correct_intent": [_today(item["question"])], "labeler_id": "ana"}
                world.post(f"/questions/{item['question_id']}/label", answer)
            second = _train(world)
            assert sorted(path for _, path in second["taxonomy"]) == sorted([NEW_POWER, NEW_PASSWORD, LATE, LOST])
            wait_for(lambda: _mostly(_answers(world, PASSWORD), NEW_PASSWORD), what="the second version's answers")
            assert {*_answers(world, PARCEL)} <= {LATE, LOST}

            # The version of before the changes comes back as it was, under today's names.
            world.post("/models/rollback", {})
            wait_for(lambda: _mostly(_answers(world, PASSWORD), PASSWORD), what="the first version")
            assert _mostly(_answers(world, POWER), NEW_POWER)
        assert len(statuses) > 50
        assert {*statuses} == {200}
        check_whole(world)


def test_a_batch_whose_label_left_trains_what_it_froze(world: Installation) -> None:
    world.serve()
    batch = queue_a_batch(world)
    touched = _change(world, "merge", PASSWORD, to=NEW_PASSWORD)["touched"]
    assert (touched["texts"], touched["batches"]) == (12, [batch])
    world.start("clock")
    wait_for(lambda: world.get(f"/batches/{batch}")["training_status"] in ("completed", "failed"), what="its end")
    row = world.get(f"/batches/{batch}")
    assert row["training_status"] == "completed", row
    assert sorted(path for _, path in world.get(f"/models/{row['model_version']}")["taxonomy"]) == sorted(LABELS)
    # What was merged meanwhile waits for the next batch.
    assert world.get("/stats")["next_batch"]["labels_new"] == 12
