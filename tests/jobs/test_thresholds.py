"""A domain's policy chooses the threshold that its versions serve with, and the proof shows what it chose from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from app.db.tables import Domain, ModelVersion, RuleSet
from app.intent.calibration import fit_threshold
from app.scorers.artifact import OutOfFold
from jobs import pairing
from jobs.context import JobContext
from jobs.rule_proving import prove_rules
from tests.builders import column, set_taxonomy
from tests.jobs.test_jobs import World, context_on
from tests.jobs.test_onnx_versions import INVOICE, add_rule, train_encoder
from tests.journeys.worlds import LABELS, label_texts


def out_of_fold(n: int, *, seed: int = 0) -> OutOfFold:
    """Calibrated answers of a good model over two labels."""
    rng = np.random.default_rng(seed)
    best = 1.0 - 0.5 * rng.random(n) ** 3
    truth = np.where(rng.random(n) < best, 7, 8)
    return OutOfFold(np.arange(n), truth, np.stack([best, 1.0 - best], axis=1))


def test_the_policy_decides_about_the_threshold_and_both_are_shown() -> None:
    scores = out_of_fold(3_000)
    by_policy = {
        policy: pairing.fit(scores, (7, 8), texts={}, rules=(), revision=None, policy=policy)
        for policy in ("sweep", "risk")
    }

    swept, careful = by_policy["sweep"].pairing.threshold, by_policy["risk"].pairing.threshold
    assert swept == fit_threshold(scores.probabilities.max(axis=1), scores.label_ids == 7)
    assert swept < careful < 1.0
    stands = scores.probabilities[:, 0] >= careful
    assert (scores.label_ids[stands] != 7).mean() < 0.02
    for policy, fitted in by_policy.items():
        shown = fitted.thresholds.as_json()
        assert (shown["policy"], shown["threshold"]) == (policy, fitted.pairing.threshold)
        assert {name: found["threshold"] for name, found in shown["policies"].items()} == {
            "sweep": swept,
            "risk": careful,
        }


@pytest.fixture
def context(sqlite_url: str, tmp_path: Path) -> Iterator[JobContext]:
    made = context_on(sqlite_url, tmp_path, batch_labels=10, extract_keywords=False)
    label_texts(World(made), 12, gold=12)
    yield made
    made.work.engine.dispose()


def test_a_careful_domain_lets_nothing_stand_before_enough_texts_have_proved_it(context: JobContext) -> None:
    context.work(lambda session: session.execute(update(Domain).values(threshold_policy="risk")))
    proof = train_encoder(context)

    assert proof.passed, proof.reasons
    assert column(context.work, ModelVersion.threshold) == [1.0], "36 texts promise nothing about two in a hundred"
    assert proof.evaluation["thresholds"]["policies"]["risk"] == {"threshold": 1.0, "reached": False}
    assert proof.evaluation["thresholds"]["count"] == 36
    assert proof.evaluation["thresholds"]["reliability"]

    set_taxonomy(context.work, [*LABELS, INVOICE])
    add_rule(context.work, "发票", INVOICE)
    assert prove_rules(context, "default") == "served"
    told = column(context.work, RuleSet.evaluation)[-1]
    assert told["thresholds"]["policy"] == "risk"


def test_a_proof_judges_gold_and_held_out_texts_at_every_depth(context: JobContext) -> None:
    proof = train_encoder(context)

    for part in ("gold", "out_of_fold"):
        upper, whole = proof.evaluation[part]["depths"]
        assert (upper["depth"], whole["depth"]) == (1, 2)
        assert upper["accuracy"]["value"] >= whole["accuracy"]["value"]
        assert whole["macro_f1"] == proof.evaluation[part]["macro_f1"]
