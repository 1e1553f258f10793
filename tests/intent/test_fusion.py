"""Model and rules are fused into one calibrated confidence that noise does not move and too few texts leave alone."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from app.intent.fusion import (
    LEAST_SHARE,
    PRIOR_TRUST,
    Fusion,
    answer_by_rules,
    evidence_of,
    fallback_fusion,
    fuse,
    fusion_from_json,
    kind_of,
)
from app.intent.fusion_fitting import FittedFusion, fit_fusion
from app.intent.rules import Rule

LABELS = (11, 12, 13)


def rule(rule_id: int, label_id: int, *, precision: float = 0.9, source: str = "mined") -> Rule:
    return Rule(rule_id, label_id, (f"word{rule_id}",), precision=precision, source=source)


def answered(rng: np.random.Generator, n: int, *, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated answers about `LABELS`, and the truth drawn from them."""
    probabilities = rng.dirichlet(np.full(len(LABELS), sharpness), n)
    columns = (probabilities.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return probabilities, np.array(LABELS)[columns]


def fitted(
    probabilities: np.ndarray, truth: Sequence[int], hits: Sequence[Sequence[int]], rules: Sequence[Rule], seed: int = 0
) -> FittedFusion:
    return fit_fusion(probabilities, LABELS, truth, hits, rules, seed=seed)


def errors(fusion: Fusion, probabilities: np.ndarray, truth: np.ndarray, hits: list, rules: Sequence[Rule]) -> float:
    wrong = 0
    for row, label, matched in zip(probabilities, truth, hits, strict=True):
        label_ids, fused = fuse(row, LABELS, [rules[k] for k in matched], fusion)
        wrong += label_ids[int(fused.argmax())] != label
    return wrong / len(truth)


def test_without_a_rule_the_model_is_left_as_it_is() -> None:
    label_ids, fused = fuse(np.array([0.5, 0.3, 0.2]), LABELS, [], Fusion())

    assert label_ids == LABELS
    assert fused == pytest.approx([0.5, 0.3, 0.2])


def test_a_rule_moves_confidence_to_its_label_and_keeps_the_others_in_proportion() -> None:
    _, fused = fuse(np.array([0.5, 0.3, 0.2]), LABELS, [rule(1, 12)], Fusion(weights={1: np.log(4.0)}))

    assert fused == pytest.approx(np.array([0.5, 1.2, 0.2]) / 1.9)
    assert fused.sum() == pytest.approx(1.0)


def test_a_rule_with_a_negative_weight_takes_confidence_away() -> None:
    _, fused = fuse(np.array([0.5, 0.3, 0.2]), LABELS, [rule(1, 11)], Fusion(weights={1: -2.0}))

    assert fused[0] < 0.5


def test_the_scale_sharpens_or_flattens() -> None:
    model = np.array([0.5, 0.3, 0.2])

    assert fuse(model, LABELS, [], Fusion(scale=2.0))[1][0] > 0.5 > fuse(model, LABELS, [], Fusion(scale=0.5))[1][0]


def test_rules_for_different_labels_pull_against_each_other() -> None:
    fusion = Fusion(weights={1: 2.0, 2: 2.0})

    _, fused = fuse(np.array([0.4, 0.4, 0.2]), LABELS, [rule(1, 11), rule(2, 12)], fusion)

    assert fused[0] == pytest.approx(fused[1])


def test_a_label_that_the_model_does_not_know_enters_with_the_floor() -> None:
    fusion = Fusion(floor=np.log(0.001), weights={1: np.log(2000.0), 2: 0.0})

    label_ids, fused = fuse(np.array([0.5, 0.3, 0.2]), LABELS, [rule(1, 99), rule(2, 98)], fusion)

    assert label_ids == (11, 12, 13, 99, 98)
    assert fused == pytest.approx(np.array([0.5, 0.3, 0.2, 2.0, 0.001]) / 3.001)


def test_a_label_without_a_rule_does_not_enter() -> None:
    assert fuse(np.array([0.5, 0.3, 0.2]), LABELS, [], Fusion(weights={1: 9.0}))[0] == LABELS


def test_a_rule_that_the_fusion_does_not_list_counts_nothing() -> None:
    assert fuse(np.array([0.5, 0.3, 0.2]), LABELS, [rule(5, 12)], Fusion())[1] == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("model", [[1.0, 0.0, 0.0], [1e-300, 1.0, 0.0]])
def test_certain_answers_stay_finite(model: list[float]) -> None:
    _, fused = fuse(np.array(model), LABELS, [rule(1, 13)], Fusion(weights={1: 900.0}))

    assert np.isfinite(fused).all()
    assert fused.sum() == pytest.approx(1.0)


def test_no_model_and_no_rule_is_no_answer() -> None:
    assert fuse(np.empty(0), (), [], Fusion())[0] == ()
    assert fuse(np.empty(0), (), [rule(1, 7)], Fusion())[0] == (7,)


def test_a_fusion_comes_back_from_json_bit_for_bit() -> None:
    fusion = Fusion(0.1 + 0.2, -1 / 3, {7: 1 / 7, 3: -2e-17})

    back = fusion_from_json(json.loads(json.dumps(fusion.as_json())))

    assert back == fusion
    probabilities = np.array([0.5, 0.3, 0.2])
    assert (
        fuse(probabilities, LABELS, [rule(7, 12)], back)[1] == fuse(probabilities, LABELS, [rule(7, 12)], fusion)[1]
    ).all()


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.0}, {"scale": -1.0}, {"scale": float("nan")}, {"floor": 0.1}, {"weights": {1: float("inf")}}]
)
def test_a_fusion_that_would_turn_answers_around_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="fusion"):
        Fusion(**wrong)


def test_rules_alone_are_as_sure_as_the_best_of_them() -> None:
    assert answer_by_rules([]) == []
    assert answer_by_rules([rule(1, 5, precision=0.8)]) == [(5, pytest.approx(0.8))]
    agreeing = [rule(1, 5, precision=0.8), rule(2, 5, precision=0.9), rule(3, 5, precision=0.8)]
    assert answer_by_rules(agreeing) == [(5, pytest.approx(0.9))]


def test_rules_that_contradict_each_other_share_and_the_better_evidence_leads() -> None:
    even = answer_by_rules([rule(1, 6, precision=0.8), rule(2, 5, precision=0.8)])
    assert even == [(5, pytest.approx(4 / 9)), (6, pytest.approx(4 / 9))]

    two_to_one = answer_by_rules([rule(1, 6, precision=0.8), rule(2, 5, precision=0.8), rule(3, 6, precision=0.8)])
    assert [label for label, _ in two_to_one] == [6, 5]
    assert two_to_one[0][1] == pytest.approx(8 / 13)
    assert sum(confidence for _, confidence in two_to_one) < 1.0


@pytest.mark.parametrize("precision", [0.0, 1.0, 1e-9])
def test_rules_alone_are_never_certain(precision: float) -> None:
    ((_, confidence),) = answer_by_rules([rule(1, 5, precision=precision)])

    assert 0.0 < confidence < 1.0


def test_a_rule_says_more_the_more_precise_it_is_and_the_rarer_its_label() -> None:
    assert evidence_of(rule(1, 5, precision=0.9), 0.1) > evidence_of(rule(1, 5, precision=0.8), 0.1) > 0
    assert evidence_of(rule(1, 5), 0.01) > evidence_of(rule(1, 5), 0.1)
    assert evidence_of(rule(1, 5, precision=0.2), 0.5) == 0.0


def test_rules_are_of_three_kinds() -> None:
    assert kind_of(rule(1, 5)) == "word"
    assert kind_of(Rule(1, 5, ("a", "b"))) == "pair"
    assert kind_of(Rule(1, 5, ("a", "b"), source="manual")) == "manual"
    assert kind_of(Rule(1, 5, (), pattern="a+", source="manual")) == "manual"


def test_without_texts_the_prior_is_the_fusion() -> None:
    rules = [rule(1, 11), rule(2, 99, source="manual", precision=0.8)]

    fusion = fallback_fusion(rules, LABELS)

    assert fusion.scale == 1.0
    assert fusion.weights[2] > fusion.weights[1] > 0
    result = fitted(np.empty((0, 3)), [], [], rules)
    assert result.fusion == fusion
    assert len(result.confidence) == len(result.predicted) == 0


def test_a_rule_for_a_label_that_the_model_does_not_know_is_as_sure_as_its_precision() -> None:
    rng = np.random.default_rng(0)
    probabilities, truth = answered(rng, 300)
    rules = [rule(1, 99, source="manual", precision=0.8)]

    fusion = fitted(probabilities, truth.tolist(), [[]] * 300, rules).fusion

    # However sure the model is among the labels that it knows: it cannot know this one.
    for probabilities in (np.array([0.5, 0.3, 0.2]), np.array([0.99, 0.005, 0.005])):
        label_ids, fused = fuse(probabilities, LABELS, rules, fusion)
        assert label_ids[int(fused.argmax())] == 99
        assert fused.max() == pytest.approx(0.8, abs=0.08)


def test_a_rule_for_an_unknown_label_that_keeps_matching_other_labels_loses_its_say() -> None:
    rng = np.random.default_rng(1)
    probabilities, truth = answered(rng, 300)
    rules = [rule(1, 99, source="manual", precision=0.8)]
    prior = fallback_fusion(rules).weights[1]

    fusion = fitted(probabilities, truth.tolist(), [[0] if i < 60 else [] for i in range(300)], rules).fusion

    assert fusion.weights[1] < prior - 1.5


def test_rules_that_help_gain_weight_and_lower_the_error() -> None:
    rng = np.random.default_rng(2)
    probabilities, truth = answered(rng, 800)
    rules = [rule(k, label) for k, label in enumerate(LABELS)]
    # Each rule matches nine of ten texts of its label and nothing else.
    hits = [[LABELS.index(label)] if rng.random() < 0.9 else [] for label in truth]

    result = fitted(probabilities[:400], truth[:400].tolist(), hits[:400], rules)

    prior = fallback_fusion(rules).weights
    assert all(result.fusion.weights[k] > 0 for k in prior)
    own = (np.array(LABELS)[probabilities[400:].argmax(axis=1)] != truth[400:]).mean()
    assert errors(result.fusion, probabilities[400:], truth[400:], hits[400:], rules) < 0.6 * own
    assert (result.predicted == truth[:400]).mean() > 1 - own


def test_rules_that_are_noise_do_not_hurt() -> None:
    rng = np.random.default_rng(3)
    probabilities, truth = answered(rng, 3_000)
    rules = [rule(k, LABELS[k % 3], precision=0.9) for k in range(30)]
    hits = [rng.choice(30, size=2, replace=False).tolist() for _ in truth]

    result = fitted(probabilities[:500], truth[:500].tolist(), hits[:500], rules)

    own = (np.array(LABELS)[probabilities[500:].argmax(axis=1)] != truth[500:]).mean()
    assert errors(result.fusion, probabilities[500:], truth[500:], hits[500:], rules) <= own + 0.01
    # The weights that are left say next to nothing of what the rules claim.
    claimed = evidence_of(rules[0], 1 / 3)
    assert np.mean(list(result.fusion.weights.values())) < 0.1 * claimed


def test_a_rule_that_is_wrong_is_turned_down() -> None:
    rng = np.random.default_rng(4)
    probabilities, truth = answered(rng, 400)
    rules = [rule(1, 11), rule(2, 11)]
    hits = [[0] if label == 11 else [1] for label in truth]

    weights = fitted(probabilities, truth.tolist(), hits, rules).fusion.weights

    assert weights[1] > 0.5
    assert weights[2] < 0.0


@pytest.mark.parametrize(("sharpened", "low", "high"), [(1.0, 0.9, 1.1), (2.0, 0.4, 0.6), (0.5, 1.6, 2.2)])
def test_the_scale_repairs_a_model_that_is_too_sure_or_not_sure_enough(
    sharpened: float, low: float, high: float
) -> None:
    rng = np.random.default_rng(5)
    probabilities, truth = answered(rng, 3_000)
    bent = probabilities**sharpened / (probabilities**sharpened).sum(axis=1, keepdims=True)

    assert low < fitted(bent, truth.tolist(), [[]] * 3_000, []).fusion.scale < high


def test_the_scale_stays_above_zero_for_a_model_that_is_always_wrong() -> None:
    probabilities = np.tile([0.9, 0.05, 0.05], (300, 1))

    fusion = fitted(probabilities, [12] * 300, [[]] * 300, []).fusion

    assert 0.0 < fusion.scale < 0.2


def test_out_of_fold_answers_are_calibrated_and_know_nothing_of_their_text() -> None:
    rng = np.random.default_rng(6)
    probabilities = np.full((300, 3), 1 / 3)
    truth = np.array(LABELS)[rng.integers(0, 3, 300)]
    # Each rule matches one text of its label: learned by heart, all answers would be right.
    rules = [rule(k, int(label), precision=0.34) for k, label in enumerate(truth)]

    result = fitted(probabilities, truth.tolist(), [[k] for k in range(300)], rules)

    learned = [fuse(row, LABELS, [own], result.fusion)[1].max() for row, own in zip(probabilities, rules, strict=True)]
    assert np.mean(learned) > 0.37, "the fusion for serving has seen what each rule is good for"
    assert result.confidence.mean() < 0.34, "what answered a text had not"


def test_a_text_whose_label_nothing_knows_teaches_nothing_and_is_answered() -> None:
    rng = np.random.default_rng(8)
    probabilities, truth = answered(rng, 100)
    with_stranger = fitted(np.vstack([probabilities, [[0.8, 0.1, 0.1]]]), [*truth.tolist(), 77], [[]] * 101, [])

    assert with_stranger.fusion.scale == pytest.approx(
        fitted(probabilities, truth.tolist(), [[]] * 100, []).fusion.scale
    )
    assert with_stranger.predicted[-1] == 11


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_texts_leaves_the_prior_nearly_as_it_is(n: int) -> None:
    rules = [rule(1, 11), rule(2, 12, source="manual")]
    result = fitted(np.tile([0.6, 0.3, 0.1], (n, 1)), [11] * n, [[0]] * n, rules)

    assert result.fusion.scale == pytest.approx(1.0, abs=0.3)
    assert result.fusion.weights[1] == pytest.approx(
        PRIOR_TRUST["word"] * evidence_of(rules[0], 1.0 if n else LEAST_SHARE), abs=0.3
    )
    assert result.predicted.tolist() == [11] * n


def test_fitting_twice_gives_the_same_fusion() -> None:
    rng = np.random.default_rng(9)
    probabilities, truth = answered(rng, 200)
    rules = [rule(k, LABELS[k % 3]) for k in range(9)]
    hits = [rng.choice(9, size=2, replace=False).tolist() for _ in truth]

    once, again = (fitted(probabilities, truth.tolist(), hits, rules) for _ in range(2))

    assert once.fusion == again.fusion
    assert (once.confidence == again.confidence).all()
    assert once.fusion == fitted(probabilities, truth.tolist(), hits, rules, seed=1).fusion
