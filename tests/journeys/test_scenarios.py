"""An intent that no label fits: asked, found, accepted, labelled, and from so many examples on answered."""

import itertools

from tests.journeys.processes import installation, wait_for
from tests.journeys.worlds import LABELS, traffic, truth

NEW = "售后 > 退运费"
LEAST = 50
SUBJECTS = ("退货的运费", "寄回去的运费", "换货的运费", "退运费", "运费险")
FEES = [
    f"{head}{subject}{rest}"
    for head, subject, rest in itertools.product(
        ("请问", "你好", ""), SUBJECTS, ("谁来出", "怎么算", "什么时候退给我", "能报销吗", "退多少钱")
    )
]


def right(text: str) -> str:
    return NEW if "运费" in text else truth(text)


def label_queue(world, most: int) -> list[str]:
    """A labeler answers what the queue offers, at most so many; the texts in their order."""
    answered: list[str] = []
    while len(answered) < most:
        limit = min(20, most - len(answered))
        items = world.get("/questions/unlabeled", limit=limit, labeler_id="ana")["items"]
        if not items:
            break
        for item in items:
            answer = {"correct_intent": [right(item["question"])], "labeler_id": "ana"}
            world.post(f"/questions/{item['question_id']}/label", answer)
            answered.append(item["question"])
    return answered


def test_an_unknown_intent_becomes_a_label_that_the_model_answers(databases, tmp_path):
    url = databases.fresh("sqlite", tmp_path)
    with installation(tmp_path, url, PROPOSE_CRON="* * * * * *", PROPOSAL_SIZE=LEAST) as world:
        world.wait_until_ready(world.start("up"))
        world.http.put("/api/v1/model-tuning/taxonomy", json=list(LABELS)).raise_for_status()
        for text in itertools.islice(traffic(1), 150):
            world.post("/classify", {"text": text})
        wait_for(lambda: world.get("/questions/unlabeled", limit=1)["items"], what="the queue")
        label_queue(world, 150)
        first = wait_for(lambda: world.get("/stats")["active_version"], what="the first version")
        wait_for(lambda: world.post("/classify", {"text": "电脑"})["model_version"] == first, what="the flip")
        for text in FEES:
            world.post("/classify", {"text": text})

        [*found] = wait_for(lambda: world.get("/scenarios", status="proposed")["items"], what="a proposal")
        assert all("运费" in one["question"] for scenario in found for one in scenario["typical"])
        best = max(found, key=lambda scenario: scenario["text_count"])
        accepted = world.post(f"/scenarios/{best['id']}/accept", {"label": NEW, "guideline": "谁付运费"})
        assert (accepted["created"], accepted["trains_from"]) == (True, LEAST)
        assert accepted["queued"] >= 10
        asked_first = label_queue(world, accepted["queued"] // 2)
        assert sum("运费" in text for text in asked_first) > 0.8 * len(asked_first)

        label_queue(world, 1000)
        wait_for(lambda: NEW in labels_of_active(world), what="a version that knows the label")
        known = world.get(f"/scenarios/{best['id']}")
        assert known["examples"] >= LEAST
        answer = wait_for(
            lambda: (said := world.post("/classify", {"text": "运费险谁来出啊"}))["label"] == NEW and said,
            what="an answer",
        )
        assert answer["method"] == "local_model"


def labels_of_active(world) -> set[str]:
    return {label["label"] for label in world.get("/models/active")["evaluation"]["out_of_fold"]["labels"]}
