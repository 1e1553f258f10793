"""A faster form of an encoder serves only where labelled texts show that nothing is lost, and fp32 otherwise."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from app.scorers.artifact import canonical_json
from tests.scorers.encoders import DIMENSION, LETTERS, MAX_LENGTH, graph, tokenizer, weights
from trainer.encoders import graph_choice
from trainer.encoders.graph_choice import Choice, Encoding, choose, fit_regression
from trainer.encoders.quantisation import CannotQuantise, Served

ENCODING = Encoding(tokenizer(), MAX_LENGTH, DIMENSION)
EXACT = graph(weights()).SerializeToString()
SPEED = {"batch_1", "batch_32"}


def material(labels: int = 3, each: int = 12) -> tuple[list[str], np.ndarray]:
    """Texts of different lengths, those of a label made of four letters of its own."""
    rng = np.random.default_rng(0)
    few = [list(LETTERS[4 * label : 4 * label + 4]) for label in range(labels)]
    texts = ["".join(rng.choice(few[label], 2 + n % 11)) for label in range(labels) for n in range(each)]
    return texts, np.repeat(np.arange(labels), each)


def chosen(**options) -> Choice:
    return choose(EXACT, ENCODING, *material(), fit_regression, **options)


@pytest.fixture
def made(monkeypatch) -> Callable[[Served], None]:
    """Puts a form of the graph in the place of what quantisation would make."""

    def put(served: Served) -> None:
        monkeypatch.setattr(graph_choice, "quantise", lambda _graph, precision: replace(served, precision=precision))

    return put


def test_integers_serve_where_they_are_as_good_and_the_facts_say_why():
    choice = chosen()

    assert (choice.served.precision, choice.served.alone) == ("int8", True)
    [form] = choice.facts["forms"]
    assert form["precision"] == choice.facts["precision"] == "int8"
    assert form["passes"]
    assert form["most_difference"] == 0.0
    assert form["flips"] == 0
    assert form["macro_f1"] >= choice.facts["fp32_macro_f1"] - 0.003
    assert 0.9 <= form["agreement"] <= 1.0
    assert form["bytes"] == len(choice.served.graph)
    assert choice.facts["checked_texts"] == 36
    assert set(choice.speed) == {"int8"}
    assert set(choice.speed["int8"]) == SPEED
    canonical_json(choice.facts)


def test_the_same_texts_and_graph_give_the_same_choice_and_facts():
    first, second = chosen(), chosen()

    assert first.served == second.served
    assert canonical_json(first.facts) == canonical_json(second.facts)


def test_a_form_that_loses_accuracy_does_not_serve(made):
    held = weights()
    made(Served(graph(replace(held, tokens=0.0 * held.tokens)).SerializeToString(), alone=True, precision=""))

    choice = chosen(precisions=["int8", "int8-by-token"])

    assert choice.served == Served(EXACT, alone=False, precision="fp32")
    assert [form["passes"] for form in choice.facts["forms"]] == [False, False]
    assert choice.facts["forms"][0]["macro_f1"] < 0.5 < choice.facts["fp32_macro_f1"]
    assert choice.facts["precision"] == "fp32"


def test_a_form_whose_answers_depend_on_the_neighbours_does_not_serve_unless_texts_run_alone(made):
    form = Served(graph(weights(), neighbours=True).SerializeToString(), alone=False, precision="")
    made(form)
    beside = chosen(precisions=["int8"])
    made(replace(form, alone=True))
    alone = chosen(precisions=["int8"])

    assert beside.served.precision == "fp32"
    assert beside.facts["forms"][0]["most_difference"] > 1e-4
    assert alone.served.precision == "int8"


def test_where_no_form_can_be_made_or_loaded_fp32_serves(made, monkeypatch):
    made(Served(b"damaged", alone=True, precision=""))
    assert chosen().served == Served(EXACT, alone=False, precision="fp32")

    def refuse(_graph, _precision):
        raise CannotQuantise("no")

    monkeypatch.setattr(graph_choice, "quantise", refuse)
    choice = chosen()
    assert choice.served == Served(EXACT, alone=False, precision="fp32")
    assert choice.facts["forms"] == []
    assert choice.speed == {}


def test_no_text_is_judged_by_a_head_that_has_seen_it():
    """Nearest neighbours know by heart what they saw, and can only guess labels that were drawn at random."""

    def nearest(embeddings, targets, n_labels):
        def judge(asked):
            distances = ((asked[:, None] - embeddings[None]) ** 2).sum(axis=2)
            return np.eye(n_labels)[targets[distances.argmin(axis=1)]]

        return judge

    texts, targets = material(labels=2, each=100)
    texts = [f"{text}{n}" for n, text in enumerate(texts)]
    choice = choose(EXACT, ENCODING, texts, np.random.default_rng(1).permutation(targets), nearest, precisions=[])

    assert choice.facts["fp32_accuracy"] < 0.7


def test_of_many_texts_a_share_of_every_label_is_looked_at(monkeypatch):
    monkeypatch.setattr(graph_choice, "MOST_CHECKED", 9)
    seen = []

    def fit(embeddings, targets, n_labels):
        seen.append(set(targets))
        return fit_regression(embeddings, targets, n_labels)

    choice = choose(EXACT, ENCODING, *material(labels=3), fit, precisions=["int8"])

    assert choice.facts["checked_texts"] == 9
    assert all(labels == {0, 1, 2} for labels in seen)


def test_a_label_of_one_text_does_not_stop_the_check():
    texts, targets = ["a", "1", "2", "3"], np.array([0, 1, 1, 1])

    assert choose(EXACT, ENCODING, texts, targets, fit_regression).facts["checked_texts"] == 4


def test_a_single_label_cannot_be_checked():
    with pytest.raises(ValueError, match="two labels"):
        choose(EXACT, ENCODING, ["a", "b"], np.zeros(2, np.int64), fit_regression)
