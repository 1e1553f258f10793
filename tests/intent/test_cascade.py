"""Tiers are asked in order, a broken one abstains, and every verdict is kept."""

import json
import logging

import pytest

from app.intent.cascade import Decision, TierUnavailable, Verdict, decide_many
from app.intent.text import MaskedText

A, B = MaskedText("甲"), MaskedText("乙")


class Says:
    """A tier that answers from a table of text to (label id, confidence), and remembers what it was asked."""

    def __init__(self, name, answers, fuses=()):
        self.name = name
        self.fuses = fuses
        self.answers = answers
        self.asked = []

    def judge_many(self, texts, earlier):
        self.asked.append((list(texts), [tuple(verdicts) for verdicts in earlier]))
        return [Verdict(self.name, *self.answers[text], fuses=self.fuses) for text in texts]


class Breaks:
    name = "generative"
    fuses = ()

    def __init__(self, error):
        self.error = error

    def judge_many(self, texts, earlier):  # noqa: ARG002
        raise self.error


def test_a_later_tier_is_asked_only_about_texts_whose_verdict_does_not_stand():
    model = Says("discriminative", {A: (1, 0.9), B: (2, 0.4)})
    second = Says("generative", {B: (3, 0.8)})
    sure, unsure = decide_many([A, B], [model, second], threshold=0.7)

    assert second.asked == [([B], [(Verdict("discriminative", 2, 0.4),)])]
    assert (sure.label_id, sure.confidence, sure.method, sure.route_used) == (
        1,
        0.9,
        "local_model",
        ("discriminative",),
    )
    assert (unsure.label_id, unsure.method) == (3, "generative")
    assert unsure.route_used == ("discriminative", "generative")
    assert not sure.trigger_check
    assert not unsure.trigger_check


def test_no_further_tier_is_asked_when_every_verdict_stands():
    later = Says("llm", {})
    decide_many([A], [Says("discriminative", {A: (1, 0.7)}), later], threshold=0.7)
    assert later.asked == []


def test_the_most_confident_guess_is_the_answer_when_nothing_stands():
    tiers = [
        Says("discriminative", {A: (1, 0.5)}),
        Says("generative", {A: (2, 0.6)}),
        Says("llm", {A: (3, None)}),
    ]
    (decision,) = decide_many([A], tiers, threshold=0.9)
    assert (decision.label_id, decision.confidence, decision.method) == (2, 0.6, "generative")
    assert decision.trigger_check
    assert decision.route_used == ("discriminative", "generative", "llm")


def test_the_earlier_of_two_equal_guesses_is_the_answer():
    tiers = [Says("discriminative", {A: (1, 0.5)}), Says("generative", {A: (2, 0.5)})]
    assert decide_many([A], tiers, threshold=0.9)[0].label_id == 1


def test_a_label_without_confidence_is_a_guess_that_never_stands():
    (decision,) = decide_many([A], [Says("llm", {A: (3, None)})], threshold=0.0)
    assert (decision.label_id, decision.confidence, decision.method) == (3, None, "llm_fallback")
    assert decision.trigger_check


@pytest.mark.parametrize(
    "error",
    [TierUnavailable("not loaded"), RuntimeError("甲 in the message"), KeyError(1), TimeoutError(), MemoryError()],
)
def test_a_broken_tier_abstains_and_the_next_one_answers(error, caplog):
    with caplog.at_level(logging.WARNING):
        (decision,) = decide_many([A], [Breaks(error), Says("llm", {A: (3, 0.9)})], threshold=0.5)
    assert decision.verdicts[0] == Verdict("generative", None, None, reason=type(error).__name__)
    assert (decision.label_id, decision.route_used) == (3, ("generative", "llm"))
    assert "generative" in caplog.text
    assert A not in caplog.text


def test_a_tier_that_answers_for_too_few_texts_abstains_on_all():
    class Short:
        name = "discriminative"

        def judge_many(self, texts, earlier):  # noqa: ARG002
            return [Verdict(self.name, 1, 0.9)]

    decisions = decide_many([A, B], [Short()], threshold=0.5)
    assert [decision.label_id for decision in decisions] == [None, None]


@pytest.mark.parametrize("confidence", [float("nan"), -0.1, 1.0000001, float("inf")])
def test_a_confidence_that_is_no_probability_is_refused(confidence):
    with pytest.raises(ValueError, match="outside"):
        Verdict("llm", 1, confidence)


def test_a_person_is_needed_when_every_tier_abstains():
    (decision,) = decide_many([A], [Breaks(ValueError())], threshold=0.0)
    assert decision == Decision((Verdict("generative", None, reason="ValueError"),), 0.0)
    assert (decision.label_id, decision.confidence, decision.topk, decision.method) == (None, None, (), "none")
    assert decision.trigger_check


def test_without_tiers_there_is_an_empty_decision_and_without_texts_none():
    (decision,) = decide_many([A], [], threshold=0.5)
    assert (decision.verdicts, decision.method, decision.route_used) == ((), "none", ())
    assert decide_many([], [Breaks(ValueError())], threshold=0.5) == []


def test_the_decision_shows_the_deciding_tiers_best_labels():
    verdict = Verdict("rules", 1, 0.8, topk=((1, 0.8), (2, 0.2)))
    decision = Decision((verdict,), 0.5)
    assert decision.topk == ((1, 0.8), (2, 0.2))
    assert decision.method == "keyword_fallback"


def test_a_verdict_is_logged_as_plain_values():
    verdict = Verdict("discriminative", 1, 0.12345678, tuple((i, 0.1) for i in range(20)), None, "v3")
    logged = json.loads(json.dumps(verdict.as_json()))
    assert logged == {
        "tier": "discriminative",
        "label_id": 1,
        "confidence": 0.123457,
        "topk": [[0, 0.1], [1, 0.1], [2, 0.1], [3, 0.1], [4, 0.1]],
        "reason": None,
        "version": "v3",
    }
    assert Verdict("llm", None, reason="TimeoutError").as_json()["confidence"] is None


def test_rules_and_model_both_judge_however_sure_the_rules_are():
    rules = Says("rules", {A: (1, 0.99), B: (None, None)})
    model = Says("discriminative", {A: (2, 0.8), B: (3, 0.9)}, fuses=("rules",))
    later = Says("generative", {})
    decided = decide_many([A, B], [rules, model, later], threshold=0.7)

    assert model.asked[0][0] == [A, B]
    assert model.asked[0][1][0] == (Verdict("rules", 1, 0.99),)
    assert later.asked == []
    # The rules' verdict went into the model's: it is evidence, and does not outvote it.
    assert [(decision.label_id, decision.confidence, decision.method) for decision in decided] == [
        (2, 0.8, "local_model"),
        (3, 0.9, "local_model"),
    ]
    assert decided[0].route_used == ("rules", "discriminative")


def test_rules_answer_alone_where_no_model_does():
    rules = Says("rules", {A: (1, 0.9)})
    (alone,) = decide_many([A], [rules], threshold=0.7)
    assert (alone.label_id, alone.method, alone.trigger_check) == (1, "keyword_fallback", False)

    broken = Breaks(ValueError())
    broken.name, broken.fuses = "discriminative", ("rules",)
    (beside_a_broken_model,) = decide_many([A], [rules, broken], threshold=0.7)
    assert (beside_a_broken_model.label_id, beside_a_broken_model.method) == (1, "keyword_fallback")


def test_a_verdict_of_rules_is_logged_with_the_rules_that_matched():
    logged = Verdict("rules", 1, 0.9, rules=(7, 9)).as_json()
    assert logged["rules"] == [7, 9]
    assert "rules" not in Verdict("discriminative", 1, 0.9).as_json()


TREE = (("硬件 > 屏幕", 0.75), ("硬件", 0.85))


@pytest.mark.parametrize(
    ("threshold", "ancestor"),
    [(0.5, None), (0.6, None), (0.7, "硬件 > 屏幕"), (0.75, "硬件 > 屏幕"), (0.8, "硬件"), (0.9, None)],
)
def test_the_deepest_node_that_is_sure_enough_stands_in_for_a_label_that_is_not(threshold, ancestor):
    verdict = Verdict("discriminative", 1, 0.6, above=TREE)
    decision = Decision((Verdict("rules", None), verdict), threshold)

    assert verdict.ancestor(threshold) == next((node for node in TREE if node[0] == ancestor), None)
    rules, model = decision.as_log()
    assert "ancestor" not in rules
    assert model.get("ancestor") == (None if ancestor is None else [ancestor, dict(TREE)[ancestor]])
    assert decision.trigger_check is (threshold > 0.6), "a person still looks: the label itself is not sure"


def test_only_the_deciding_verdict_names_an_ancestor():
    unsure, sure = Verdict("discriminative", 1, 0.6, above=TREE), Verdict("generative", 2, 0.9)
    assert all("ancestor" not in logged for logged in Decision((unsure, sure), 0.7).as_log())


def test_a_verdict_about_a_text_out_of_scope_does_not_stand_however_sure_it_is():
    verdict = Verdict("discriminative", 1, 0.99, above=(("硬件", 1.0),), out_of_scope=True)

    assert not verdict.stands(0.5)
    assert verdict.ancestor(1.0) is None, "its node is in as much doubt as its label"
    decision = Decision((verdict,), 0.5)
    assert (decision.label_id, decision.confidence) == (1, 0.99), "the best guess and its confidence stay what they are"
    assert decision.trigger_check
    assert decision.as_log()[0]["out_of_scope"] is True
    assert "out_of_scope" not in Verdict("discriminative", 1, 0.99).as_json()


def test_a_later_tier_is_asked_about_a_text_out_of_scope_and_a_person_looks_all_the_same():
    """Held to the labels, a later tier names one for any text."""

    class Doubts(Says):
        def judge_many(self, texts, earlier):  # noqa: ARG002
            return [Verdict(self.name, 1, 0.99, out_of_scope=True) for _ in texts]

    [decision] = decide_many([A], [Doubts("discriminative", {}), Says("generative", {A: (2, 0.999)})], threshold=0.7)

    assert decision.route_used == ("discriminative", "generative")
    assert decision.label_id == 2
    assert decision.trigger_check
