"""What further labels are worth, read from the versions that a domain has."""

from typing import Any

import pytest
from sqlalchemy import update

from app.db.session import UnitOfWork
from app.db.tables import Text
from app.services import domains, worth
from tests.builders import ask, column, domain_id, domain_of, gold_text, make_version, trainable_text


def evaluation(value: float, *, kappa: float | None = None, sample: int = 500, count: int = 400) -> dict[str, Any]:
    told: dict[str, Any] = {
        "gold": {"count": count, "macro_f1": {"value": value, "low": value - 0.02, "high": value + 0.02}}
    }
    if kappa is not None:
        told["stability"] = {"kappa": kappa, "sample": sample, "against": "default-v0"}
    return told


def law(labels: int) -> float:
    return 0.92 - 2.4 * labels**-0.5


def make_curve(work: UnitOfWork, sizes: range, *, kappas: dict[int, float] | None = None, **changes: Any) -> None:
    for size in sizes:
        told = evaluation(law(size), kappa=(kappas or {}).get(size))
        work(make_version, train_count=size, **({"evaluation": told} | changes))


def told_of(work: UnitOfWork, **options: Any) -> dict[str, Any]:
    return work.read(lambda session: worth.of_domain(session, domain_of(session), **options))


def test_a_domain_without_versions_is_told_what_a_curve_needs(work: UnitOfWork) -> None:
    told = told_of(work)
    assert (told["recipe"], told["labels"], told["points"]) == (None, 0, [])
    assert told["curve"] is told["target"] is told["gain"] is None
    assert told["stop"]["stop"] is False
    assert "4 versions" in told["says"][0]
    assert "there are 0" in told["says"][0]


def test_versions_give_the_curve_the_labels_needed_and_the_gain(work: UnitOfWork) -> None:
    make_curve(work, range(100, 900, 100))
    told = told_of(work, target=0.87)
    assert [point["labels"] for point in told["points"]] == list(range(100, 900, 100))
    assert told["points"][0]["version"] == "default-v1"
    assert told["labels"] == 800
    assert told["curve"]["asymptote"]["value"] == pytest.approx(0.92, abs=0.02)
    assert told["gain"]["labels"] == 100
    assert told["gain"]["low"] <= law(900) - law(800) <= told["gain"]["high"]
    target = told["target"]
    assert (target["macro_f1"], target["is_given"], target["reached"]) == (0.87, True, False)
    assert target["more_labels"] == pytest.approx(2304 - 800, rel=0.25)
    assert "more labels (95 %:" in told["says"][0]
    assert "the next 100 are worth +0." in told["says"][0]


def test_without_a_target_it_is_nearly_all_that_labels_can_bring(work: UnitOfWork) -> None:
    make_curve(work, range(100, 900, 100))
    told = told_of(work)
    assert told["target"]["is_given"] is False
    assert told["target"]["macro_f1"] == pytest.approx(0.95 * told["curve"]["asymptote"]["value"], abs=1e-4)


def test_a_target_out_of_reach_is_never_reached_and_a_low_one_is_reached(work: UnitOfWork) -> None:
    make_curve(work, range(100, 900, 100))
    far, near = told_of(work, target=0.99), told_of(work, target=0.5)
    assert (far["target"]["more_labels"], far["target"]["reached"]) == (None, False)
    assert "never reached by this curve" in far["says"][0]
    assert (near["target"]["more_labels"], near["target"]["reached"]) == (0, True)
    assert "is reached" in near["says"][0]


def test_another_recipe_begins_another_curve(work: UnitOfWork) -> None:
    make_curve(work, range(100, 900, 100))
    make_curve(work, range(900, 1100, 100), recipe="head")
    told = told_of(work)
    assert told["recipe"] == "head"
    assert [point["labels"] for point in told["points"]] == [900, 1000]
    assert told["curve"] is None
    assert "there are 2" in told["says"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "lora"},
        {"recipe": "imported"},
        {"status": "failed"},
        {"train_count": 0},
        {"evaluation": {}},
        {"evaluation": {"gold": {"count": 0, "macro_f1": {"value": None, "low": None, "high": None}}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_no_measurement_of_the_main_route_is_no_point(work: UnitOfWork, changes: dict[str, Any]) -> None:
    make_curve(work, range(100, 500, 100))
    work(make_version, **({"train_count": 500, "evaluation": evaluation(0.1)} | changes))
    told = told_of(work)
    assert told["recipe"] == "ngram"
    assert [point["labels"] for point in told["points"]] == [100, 200, 300, 400]


def test_a_version_that_the_gate_refused_is_a_measurement_too(work: UnitOfWork) -> None:
    make_curve(work, range(100, 300, 100), status="refused")
    assert len(told_of(work)["points"]) == 2


def test_domains_do_not_mix(work: UnitOfWork) -> None:
    work(domains.create, "shop")
    make_curve(work, range(100, 900, 100), domain="shop")
    assert told_of(work)["points"] == []


def test_three_versions_that_answer_alike_say_stop(work: UnitOfWork) -> None:
    make_curve(work, range(100, 600, 100), kappas={200: 0.8, 300: 0.995, 400: 0.992, 500: 0.997})
    stop = told_of(work)["stop"]
    assert stop["stop"] is True
    assert [entry["kappa"] for entry in stop["compared"]] == [0.995, 0.992, 0.997]
    assert stop["compared"][-1] == {"version": "default-v5", "kappa": 0.997, "sample": 500, "against": "default-v0"}
    assert "answer alike (κ 0.995, 0.992, 0.997)" in stop["reason"]


def test_answers_that_still_change_do_not_stop(work: UnitOfWork) -> None:
    make_curve(work, range(100, 600, 100), kappas={300: 0.995, 400: 0.9, 500: 0.997})
    stop = told_of(work)["stop"]
    assert stop["stop"] is False
    assert "still change" in stop["reason"]


def test_two_comparisons_are_not_three(work: UnitOfWork) -> None:
    make_curve(work, range(100, 400, 100), kappas={200: 1.0, 300: 1.0})
    stop = told_of(work)["stop"]
    assert stop["stop"] is False
    assert "there are 2" in stop["reason"]


def test_training_again_on_the_same_labels_proves_nothing(work: UnitOfWork) -> None:
    make_curve(work, range(100, 300, 100), kappas={200: 1.0})
    for _ in range(3):
        work(make_version, train_count=200, evaluation=evaluation(0.8, kappa=1.0))
    assert told_of(work)["stop"]["stop"] is False


def test_a_few_texts_prove_nothing(work: UnitOfWork) -> None:
    for size in (100, 200, 300):
        work(make_version, train_count=size, evaluation=evaluation(0.8, kappa=1.0, sample=99))
    stop = told_of(work)["stop"]
    assert stop["stop"] is False
    assert "99 texts only" in stop["reason"]


def test_the_sample_is_fixed_and_holds_no_gold(work: UnitOfWork) -> None:
    texts = [trainable_text("甲") for _ in range(12)]
    # One by one: texts that come together are numbered in the order of their hashes.
    for text in (*texts, *[gold_text("甲") for _ in range(4)]):
        ask(work, text)
    first = work.read(worth.sample, domain_id(work), limit=5)
    assert len(first) == 5
    assert set(first) <= set(texts)
    hashes = dict(zip(column(work, Text.text), column(work, Text.text_hash), strict=True))
    assert [hashes[text] for text in first] == sorted(hashes[text] for text in texts)[:5]

    work(lambda session: session.execute(update(Text).where(Text.text == first[0]).values(train_allowed=False)))
    assert work.read(worth.sample, domain_id(work), limit=4) == first[1:]
