"""An encoder's artifact may say which texts it has labels for, and is refused where that does not belong to it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.intent.cascade import Verdict
from app.intent.fusion import Fusion
from app.intent.hierarchy import Hierarchy
from app.intent.rules import Rule
from app.intent.scope import Scope, arrays_of
from app.intent.text import MaskedText
from app.scorers import load_scorer
from app.scorers.artifact import ArtifactCorrupt, check_reference_answers, digest, verify
from app.scorers.local_model import LocalModel
from app.scorers.onnx import SCOPE, OnnxScorer, read_model, write_model
from tests.scorers.encoders import DIMENSION, write_artifact
from tests.scorers.test_onnx import EXAMPLES, PATHS

STRANGE, KNOWN = MaskedText("zzz qqq xxx www"), MaskedText("怎么申请退货")


@pytest.fixture(scope="module")
def scoped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole artifact that knows its scope. Read only."""
    folder = tmp_path_factory.mktemp("scoped") / "artifact"
    # Each text twice: one in twenty can only be promised of twenty.
    write_artifact(folder, [*EXAMPLES, *((i + 1000, text + "?", label) for i, text, label in EXAMPLES)],
                   paths=PATHS, scoped=True)  # fmt: skip
    return folder


@pytest.fixture
def scorer(scoped: Path) -> OnnxScorer:
    return OnnxScorer.load(scoped)


def test_an_artifact_with_a_scope_proves_itself_and_gives_the_scope_back(scoped: Path, scorer: OnnxScorer) -> None:
    assert SCOPE in verify(scoped, digest(scoped)).files
    check_reference_answers(load_scorer(scoped), scoped)
    assert scorer.scope is not None
    embeddings = scorer.embed([STRANGE, KNOWN])
    strange, known = scorer.scope.score(embeddings, scorer.judge(embeddings))
    assert strange > scorer.scope.threshold > known


def test_a_scope_of_another_encoder_or_of_other_labels_is_refused(scoped: Path, tmp_path: Path) -> None:
    model = read_model(scoped)
    assert model.scope is not None
    few = replace(model.scope, means=model.scope.means[:2])
    narrow = replace(model.scope, factor=model.scope.factor[:5, :5], means=model.scope.means[:, :5])
    for number, scope in enumerate((few, narrow)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_model(folder, replace(model, scope=scope))
        with pytest.raises(ArtifactCorrupt, match=SCOPE):
            read_model(folder)


@pytest.mark.parametrize("content", [b"", b"no arrays", None], ids=["empty", "no archive", "surplus array"])
def test_a_scope_that_is_no_file_of_ours_is_refused(scoped: Path, tmp_path: Path, content: bytes | None) -> None:
    model = read_model(scoped)
    assert model.scope is not None
    write_model(tmp_path, model)
    if content is None:
        np.savez(tmp_path / SCOPE, allow_pickle=False, **arrays_of(model.scope), more=np.zeros(1))
    else:
        (tmp_path / SCOPE).write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=SCOPE):
        read_model(tmp_path)


class Fixed:
    """A scorer that gives every text the same answer and embedding."""

    label_ids = (1, 2, 3)

    def __init__(self, scope: Scope | None, answer: tuple[float, ...] = (0.9, 0.06, 0.04)) -> None:
        self.scope = scope
        self._answer = np.array(answer)

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), DIMENSION), np.float32)

    def judge(self, embeddings: np.ndarray) -> np.ndarray:
        return np.tile(self._answer, (len(embeddings), 1))

    def probabilities(self, texts: list[str]) -> np.ndarray:
        return self.judge(self.embed(texts))


def never(threshold: float) -> Scope:
    factor, means = np.eye(DIMENSION, dtype=np.float32), np.zeros((3, DIMENSION), np.float32)
    return Scope(factor, means, np.zeros(2), np.ones(2), threshold)


def test_beyond_the_threshold_the_verdict_is_the_same_but_does_not_stand() -> None:
    [inside] = LocalModel(Fixed(never(1e6)), "v").judge_many([KNOWN], [])
    [outside] = LocalModel(Fixed(never(0.0)), "v").judge_many([KNOWN], [])
    [without] = LocalModel(Fixed(None), "v").judge_many([KNOWN], [])

    assert inside == without
    assert (outside.label_id, outside.confidence, outside.topk) == (inside.label_id, inside.confidence, inside.topk)
    assert inside.stands(0.7)
    assert not outside.stands(0.7)
    assert outside.reason is not None
    assert outside.reason.startswith("out of scope by ")


def test_a_rule_that_speaks_for_the_answer_vouches_for_the_text() -> None:
    rules = [Rule(rule_id=n, label_id=n, all_of=("退",)) for n in (1, 2)]
    for said, is_out in (((1,), False), ((2,), True), ((1, 2), False), ((), True)):
        model = LocalModel(Fixed(never(0.0)), "v", rules=rules, fusion=Fusion(weights={1: 0.1, 2: 0.1}))
        [verdict] = model.judge_many([KNOWN], [[Verdict("rules", None, rules=said)]])
        assert verdict.label_id == 1
        assert verdict.out_of_scope is is_out, said


def test_a_verdict_carries_what_is_above_its_label_unless_the_taxonomy_is_flat() -> None:
    deep = Hierarchy({1: "甲 > 子", 2: "甲 > 丑", 3: "乙"}, (1, 2, 3))
    flat = Hierarchy({1: "子", 2: "丑", 3: "乙"}, (1, 2, 3))

    [verdict] = LocalModel(Fixed(None, (0.5, 0.3, 0.2)), "v", hierarchy=deep).judge_many([KNOWN], [])
    assert verdict.above == (("甲", pytest.approx(0.8)),)
    [bare] = LocalModel(Fixed(None, (0.5, 0.3, 0.2)), "v", hierarchy=flat).judge_many([KNOWN], [])
    assert bare.above == ()
