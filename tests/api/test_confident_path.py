"""Where a label is not sure enough and what is above it is, the answer says so, over real HTTP and on every way."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.db.tables import UserQuestion
from app.intent.taxonomy import parse_taxonomy
from app.scorers.artifact import digest
from app.services import activations, domains, intake, taxonomy
from tests.api.conftest import Service, served, wait_for
from tests.builders import make_version
from tests.conftest import Databases
from tests.trainer.specs import train

CRACKED, DARK, RETURN, FLAT = "硬件 > 屏幕 > 碎裂", "硬件 > 屏幕 > 黑屏", "售后 > 退货", "其他"
INTENTS = {
    CRACKED: ("手机屏幕碎了", "屏幕摔裂了", "屏幕有裂纹", "平板屏幕碎裂怎么办", "屏幕裂开了"),
    DARK: ("手机屏幕黑了", "屏幕黑屏了", "屏幕不亮", "平板屏幕全黑怎么办", "屏幕黑着没显示"),
    RETURN: ("我要退货", "怎么申请退货", "退货地址在哪", "七天无理由退货", "不想要了想退"),
    FLAT: ("你好", "今天天气", "谢谢你", "再见", "哈哈"),
}
# As near to one of the two as to the other.
TORN = "手机屏幕怎么办"


@pytest.fixture(scope="module")
def torn(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose model knows four labels on three depths, with a threshold that no single one of two reaches."""
    folder = tmp_path_factory.mktemp("torn")
    artifact = train(folder / "trained", INTENTS)
    with served(databases.fresh("sqlite", folder), folder) as running:
        name = digest(artifact)
        running.settings.artifacts.mkdir(parents=True, exist_ok=True)
        artifact.rename(running.settings.artifacts / name)

        def activate(session: Session) -> None:
            domain = domains.locked(session, "default")
            labels = taxonomy.replace(session, domain, parse_taxonomy(list(INTENTS)))
            assert [label.id for label in labels] == [1, 2, 3, 4]
            version = make_version(session, artifact_digest=name, threshold=0.7)
            activations.activate(session, version.version, by="test", reason="test")

        running.services.work(activate)
        wait_for(lambda: running.classify("预热")["model_version"], 60)
        yield running


def test_the_levels_that_are_sure_enough_are_named_where_the_label_is_not(torn: Service) -> None:
    answer = torn.classify(TORN, topk=4)
    shares = dict(answer["topk"])

    assert answer["label"] in (CRACKED, DARK)
    assert answer["confidence"] < 0.7 <= shares[CRACKED] + shares[DARK]
    assert answer["confident_path"] == ["硬件", "屏幕"]
    assert answer["path"][:2] == answer["confident_path"]
    assert answer["trigger_check"] is True


def test_a_label_that_is_sure_needs_nothing_above_it_and_a_flat_one_has_nothing(torn: Service) -> None:
    sure = torn.classify("我要退货")
    assert sure["confidence"] >= 0.7
    assert sure["confident_path"] is None
    assert torn.classify("zzzz qqqq")["confident_path"] is None


def test_an_answer_says_the_same_on_the_short_way_the_ordinary_one_and_in_a_batch(torn: Service) -> None:
    ordinary = torn.http.post("/classify", json={"text": TORN}, headers={"origin": "http://testserver"}).json()
    batch = torn.post("/classify/batch", {"texts": [TORN, "我要退货"]}).json()["results"]

    assert ordinary["confident_path"] == ["硬件", "屏幕"]
    assert [result["confident_path"] for result in batch] == [["硬件", "屏幕"], None]


def test_a_repeated_request_is_answered_from_the_log_as_it_was(torn: Service) -> None:
    first = torn.classify(TORN, request_id="again-1")
    assert torn.classify(TORN, request_id="again-1") == first
    assert first["confident_path"] == ["硬件", "屏幕"]


def test_the_log_keeps_the_node_with_its_probability(torn: Service) -> None:
    question_id = torn.classify(TORN)["question_id"]

    def verdicts(session: Session) -> list[dict[str, Any]]:
        found: UserQuestion = intake.find(session, question_id)
        return found.verdicts

    [verdict] = torn.services.work.read(verdicts)
    node, probability = verdict["ancestor"]
    assert node == "硬件 > 屏幕"
    assert 0.7 <= probability <= 1.0
