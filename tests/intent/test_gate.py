"""A version passes when nothing shows that it is worse, and the gate says how much could have been shown."""

import json
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest

from app.intent.evaluation import resample_weights
from app.intent.gate import FirstProof, Rival, _sign_test, collapsed_labels, compare, judge, judge_first


def rng():
    return np.random.default_rng(0)


def gold(n, n_labels=5):
    return np.random.default_rng(42).integers(1, n_labels + 1, n)


def wrong(truth, places):
    """The truth, but for another label at these places."""
    answered = truth.copy()
    answered[places] = truth[places] % truth.max() + 1
    return answered


def places(n, share, seed):
    return np.flatnonzero(np.random.default_rng(seed).random(n) < share)


def test_an_equal_version_passes_with_a_difference_of_zero():
    truth = gold(200)
    active = wrong(truth, places(200, 0.2, 1))
    decision = judge(truth, active.copy(), [Rival("v1", active)], rng())
    assert decision.passed
    assert decision.reasons == ()
    assert decision.evidence == "strong"
    (comparison,) = decision.comparisons
    assert (comparison.difference, comparison.low, comparison.high) == (0.0, 0.0, 0.0)


def test_a_better_version_passes_and_the_interval_lies_above_zero():
    truth = gold(300)
    decision = judge(truth, wrong(truth, places(300, 0.05, 1)), [Rival("v1", wrong(truth, places(300, 0.3, 2)))], rng())
    assert decision.passed
    assert decision.comparisons[0].low > 0.0


def test_a_version_is_refused_when_the_whole_interval_lies_below_zero():
    truth = gold(300)
    decision = judge(truth, wrong(truth, places(300, 0.3, 1)), [Rival("v7", wrong(truth, places(300, 0.1, 2)))], rng())
    assert not decision.passed
    assert decision.comparisons[0].high < 0.0
    (reason,) = decision.reasons
    assert reason.startswith("Macro-F1 on 300 gold texts is 0.")
    assert "v7" in reason
    assert "95 % interval" in reason


def test_a_small_loss_that_chance_explains_passes():
    truth = gold(300)
    active = wrong(truth, np.arange(30))
    candidate = wrong(truth, np.arange(20, 56))
    decision = judge(truth, candidate, [Rival("v1", active)], rng())
    assert decision.comparisons[0].difference == pytest.approx(-0.02, abs=0.005)
    assert decision.passed


def test_small_losses_do_not_add_up_because_the_best_before_is_a_rival_too():
    truth = gold(400)
    best = wrong(truth, places(400, 0.05, 1))
    active = wrong(truth, places(400, 0.15, 2))
    candidate = wrong(truth, places(400, 0.17, 3))
    assert judge(truth, candidate, [Rival("active", active)], rng()).passed
    decision = judge(truth, candidate, [Rival("active", active), Rival("best", best)], rng())
    assert not decision.passed
    assert [comparison.reference for comparison in decision.comparisons] == ["active", "best"]
    assert "best" in decision.reasons[0]


def test_pairing_sees_a_difference_that_two_separate_intervals_would_hide():
    truth = gold(400)
    hard = places(400, 0.4, 1)
    active = wrong(truth, hard)
    candidate = wrong(truth, np.union1d(hard, places(400, 0.03, 2)))
    comparison = compare(truth, candidate, Rival("v1", active), resample_weights(400, 1_000, rng()))
    assert comparison.high < 0.0
    assert comparison.high - comparison.low < 0.05  # either version's own interval is about 0.1 wide


def test_a_collapsed_label_is_refused_though_macro_f1_over_many_labels_hides_it():
    truth = np.repeat(np.arange(1, 41), 12)
    active = wrong(truth, places(len(truth), 0.25, 1))
    active[truth == 3] = 3
    candidate = wrong(truth, places(len(truth), 0.22, 2))
    candidate[truth == 3] = 4
    decision = judge(truth, candidate, [Rival("v1", active)], rng())
    assert decision.comparisons[0].high > 0.0
    assert not decision.passed
    assert decision.reasons == ("Label 3 collapsed: its recall on 12 gold texts fell from 1.00 with v1 to 0.00.",)


@pytest.mark.parametrize(
    ("support", "before", "now", "collapses"),
    [
        (10, 10, 5, True),  # five lost, none won: p = 1/32
        (10, 10, 6, False),  # recall falls by 0.4 only
        (9, 9, 0, False),  # too little gold
        (10, 4, 0, False),  # never reached 0.5 to lose
        (20, 15, 5, True),
        (10, 5, 10, False),
    ],
)
def test_a_label_collapses_when_it_has_enough_gold_and_loses_half_of_its_recall(support, before, now, collapses):
    truth = np.ones(support, dtype=np.int64)
    active = np.where(np.arange(support) < before, 1, 2)
    candidate = np.where(np.arange(support) < now, 1, 2)
    assert collapsed_labels(truth, candidate, active) == ([1] if collapses else [])


def test_a_label_does_not_collapse_when_chance_explains_the_loss():
    # Seven lost and one won of ten: p = 9/256; six lost and one won of ten: p = 8/128.
    truth = np.ones(10, dtype=np.int64)
    active = np.array([1, 1, 1, 1, 1, 1, 1, 2, 2, 2])
    assert collapsed_labels(truth, np.array([2, 2, 2, 2, 2, 2, 2, 1, 2, 2]), active) == [1]
    active = np.array([1, 1, 1, 1, 1, 1, 2, 2, 2, 2])
    assert collapsed_labels(truth, np.array([2, 2, 2, 2, 2, 2, 1, 2, 2, 2]), active) == []


def test_under_fifty_gold_texts_the_evidence_is_weak_and_the_visible_loss_is_named():
    truth = gold(49)
    decision = judge(truth, wrong(truth, places(49, 0.2, 1)), [Rival("v1", wrong(truth, places(49, 0.2, 2)))], rng())
    assert decision.passed
    assert decision.evidence == "weak"
    (comparison,) = decision.comparisons
    assert decision.smallest_visible_loss == pytest.approx((comparison.high - comparison.low) / 2)
    assert 0.05 < decision.smallest_visible_loss < 0.4
    assert decision.reasons == (
        "Weak evidence: on 49 gold texts only a loss of about "
        f"{decision.smallest_visible_loss:.3f} would have been seen.",
    )
    assert judge(gold(50), gold(50), [Rival("v1", gold(50))], rng()).evidence == "strong"


def test_weak_evidence_still_refuses_a_clear_loss():
    truth = gold(30)
    decision = judge(truth, wrong(truth, np.arange(30)), [Rival("v1", truth)], rng())
    assert (decision.passed, decision.evidence) == (False, "weak")


def test_more_gold_shows_smaller_losses():
    def visible(n):
        truth = gold(n)
        rivals = [Rival("v1", wrong(truth, places(n, 0.2, 2)))]
        return judge(truth, wrong(truth, places(n, 0.2, 1)), rivals, rng()).smallest_visible_loss

    assert visible(1_600) < 0.6 * visible(400)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_next_to_no_gold_decides_without_warnings_or_nan(n):
    truth = np.arange(1, n + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decision = judge(truth, truth.copy(), [Rival("v1", truth.copy())], rng())
    assert (decision.passed, decision.evidence) == (True, "weak")
    assert decision.reasons
    json.dumps(decision.as_json(), allow_nan=False)


def test_labels_that_a_version_does_not_know_count_against_it():
    truth = np.repeat([1, 2, 3], 40)
    old = np.where(truth == 3, 1, truth)
    decision = judge(truth, truth.copy(), [Rival("old", old)], rng())
    assert decision.comparisons[0].low > 0.2


@pytest.mark.parametrize(
    ("proof", "passes", "words"),
    [
        (FirstProof(0.8, 0.7, 0.3, 0.1), True, None),
        (FirstProof(0.9, 0.3, 0.9, 0.2), True, None),
        (FirstProof(0.89, 0.3, 0.9, 0.2), False, "accuracy of 0.890 is below the 0.900"),
        (FirstProof(0.9, 0.2, 0.9, 0.2), False, "macro-F1 of 0.200 does not beat the 0.200"),
        (FirstProof(float("nan"), float("nan"), 0.9, 0.2), False, "macro-F1"),
    ],
)
def test_a_first_version_must_beat_always_answering_the_most_frequent_label(proof, passes, words):
    decision = judge_first(proof, 0)
    assert decision.passed is passes
    assert (words or "") in " ".join(decision.reasons)
    assert bool(decision.reasons) is not passes


def test_the_evidence_for_a_first_version_is_its_gold():
    proof = FirstProof(0.8, 0.7, 0.3, 0.1)
    assert [judge_first(proof, count).evidence for count in (0, 49, 50)] == ["weak", "weak", "strong"]


def test_a_decision_is_kept_as_plain_values():
    truth = gold(60)
    kept = json.loads(json.dumps(judge(truth, truth, [Rival("v1", truth)], rng()).as_json()))
    assert set(kept) == {"passed", "evidence", "reasons", "comparisons", "smallest_visible_loss"}
    assert kept["comparisons"] == [{"reference": "v1", "difference": 0.0, "low": 0.0, "high": 0.0}]


@pytest.mark.parametrize(("lost", "won"), [(1, 0), (5, 0), (8, 2), (10, 9), (40, 12), (700, 600)])
def test_sign_test_is_the_exact_binomial_tail(lost: int, won: int) -> None:
    expected = binomtest(lost, lost + won, alternative="greater").pvalue
    assert _sign_test(lost, won) == pytest.approx(expected, rel=1e-9)
