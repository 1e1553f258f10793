import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from app.intent.ngram_features import FeatureSettings, Featuriser
from app.intent.text import normalise
from app.scorers import load_scorer
from app.scorers.artifact import digest, read_out_of_fold, verify
from tests.trainer.specs import train
from trainer.ngram import NgramConfig, choose_strength
from trainer.term_matrix import count_terms

SMP2017 = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "smp2017-ecdt"


def test_out_of_fold_answers_know_nothing_of_labels_that_mean_nothing(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices([f"word{n}" for n in range(40)], k=5)) for _ in range(200)]

    artifact = train(tmp_path, {"a": texts[:100], "b": texts[100:]})

    learned = load_scorer(artifact).probabilities(texts).argmax(axis=1)
    assert (learned == np.repeat([0, 1], 100)).mean() > 0.9, "the model has learned its own texts by heart"
    scores = read_out_of_fold(artifact)
    assert 0.35 < (scores.probabilities.argmax(axis=1) == scores.label_ids - 1).mean() < 0.65
    assert scores.probabilities.max(axis=1).mean() < 0.75, "calibration sees that nothing can be known"


def test_answers_are_calibrated_on_texts_that_were_not_seen(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = {"a": ["red", "green"], "b": ["blue", "black"]}

    def draw(label: str) -> str:
        # Three of four texts say what they are about; the fourth could be either.
        told = rng.choice(words[label] if rng.random() < 0.75 else [*words["a"], *words["b"]])
        return " ".join([told, *rng.choices([f"filler{n}" for n in range(30)], k=4)])

    artifact = train(tmp_path, {label: [draw(label) for _ in range(200)] for label in words})

    fresh = [(draw(label), column) for column, label in enumerate(words) for _ in range(1000)]
    answers = load_scorer(artifact).probabilities([text for text, _ in fresh])
    correct = answers.argmax(axis=1) == [column for _, column in fresh]
    assert abs(answers.max(axis=1).mean() - correct.mean()) < 0.04


@pytest.mark.parametrize(("noise", "expected"), [(0.0, 100.0), (0.9, 0.01)])
def test_noisy_labels_are_given_more_regularisation(noise: float, expected: float) -> None:
    rng = random.Random(2)
    targets = np.array([n % 3 for n in range(240)], dtype=np.int64)
    told = [rng.randrange(3) if rng.random() < noise else int(target) for target in targets]
    texts = [f"topic{topic} word{rng.randrange(20)} word{rng.randrange(20)}" for topic in told]
    counts = count_terms(texts, Featuriser(FeatureSettings(dictionary=False)), max_features=10_000)

    strength, logits = choose_strength(
        counts, targets, NgramConfig(strengths=(0.01, 100.0)), seed=0, report=lambda _progress, _stage: None
    )

    assert strength == expected
    assert logits.shape == (240, 3)


def test_balance_lets_small_labels_be_answered(tmp_path: Path) -> None:
    rng = random.Random(3)

    def text(word: str) -> str:
        return " ".join([*rng.choices([f"filler{n}" for n in range(60)], k=6), word])

    intents = {"large": [text("x") for _ in range(300)], "small": [text(rng.choice(["x", "y"])) for _ in range(12)]}
    asked = [text(word) for word in ("x", "y") for _ in range(50)]

    even = load_scorer(train(tmp_path / "even", intents, config={"label_balance": 1.0})).probabilities(asked)
    as_they_come = load_scorer(train(tmp_path / "raw", intents, config={"label_balance": 0.0})).probabilities(asked)

    assert even[:, 1].mean() > as_they_come[:, 1].mean()


@pytest.mark.parametrize("texts", [("a",), ("a", "b")])
def test_every_strength_out_of_range_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="strengths"):
        NgramConfig(strengths=(0.0,) * len(texts))


@pytest.mark.real_data
def test_chinese_intents_are_learned_as_well_as_promised(tmp_path: Path) -> None:
    if not SMP2017.is_dir():
        pytest.skip("smp2017-ecdt is not on this machine")
    rows = {
        split: [
            json.loads(line)
            for line in gzip.decompress((SMP2017 / f"{split}.jsonl.gz").read_bytes()).decode("utf-8").splitlines()
        ]
        for split in ("train", "test")
    }
    # The loop keeps a tenth of the texts as gold.
    rng = random.Random(0)
    intents: dict[str, list[str]] = {label: [] for label in sorted({row["label"] for row in rows["train"]})}
    for row in rows["train"]:
        if rng.random() >= 0.1:
            intents[row["label"]].append(normalise(row["text"]))

    artifact = train(tmp_path, intents)

    scorer, names = load_scorer(artifact), list(intents)
    answers = scorer.probabilities([normalise(row["text"]) for row in rows["test"]])
    answered = [names[column] for column in answers.argmax(axis=1)]
    truth = [row["label"] for row in rows["test"]]
    assert np.mean([a == b for a, b in zip(answered, truth, strict=True)]) >= 0.915
    assert f1_score(truth, answered, average="macro") >= 0.920
    assert 0.5 < verify(artifact, digest(artifact)).temperature < 1.0
