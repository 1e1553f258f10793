"""Two machines, one database, one object store: either trains, both serve the same, and each alone when all is away."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Databases
from tests.journeys.processes import Installation, stop, wait_for
from tests.journeys.worlds import label_texts, probes
from tests.object_stores import BUCKET, s3_environment

SECRET = "one secret that both machines share, long enough"


@pytest.fixture
def machines(databases: Databases, tmp_path: Path) -> Iterator[tuple[Installation, Installation]]:
    """Each with a data folder of its own; nothing but the database and the store is shared."""
    with s3_environment() as environment:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        url, made = databases.fresh("postgresql", tmp_path), []
        try:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                given = {"ARTIFACTS_URL": f"s3://{BUCKET}/shop", "SECRET_KEY": SECRET}
                made.append(Installation(tmp_path / name, url, **given))
            yield made[0], made[1]
        finally:
            for machine in made:
                machine.end()
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def answers(machine: Installation) -> list[tuple[object, ...]]:
    given = machine.post("/classify/batch", {"texts": list(probes(30))})["results"]
    return [(answer["label"], answer["confidence"], answer["model_version"]) for answer in given]


def test_what_one_machine_trains_both_serve_from_one_store(machines: tuple[Installation, Installation]) -> None:
    one, two = machines
    services = [machine.serve() for machine in machines]
    label_texts(one, 12)
    clock = one.start("clock")
    active = wait_for(
        lambda: (
            (answer := two.http.get("/api/v1/model-tuning/models/active")).is_success
            and answer.json()["propagated"] == "2/2"
            and answer.json()
        ),
        seconds=150,
        what="a version that both serve",
    )
    assert active["model_path"] == f"s3://{BUCKET}/shop/{active['artifact_digest']}"
    assert (active["replicas_arrived"], active["replicas_alive"]) == (2, 2)
    assert {replica["version"] for replica in active["replicas"]} == {active["version"]}
    assert answers(one) == answers(two)
    assert {version for *_, version in answers(two)} == {active["version"]}
    # Only what came from the store: this machine has trained nothing.
    cache = two.folder / "cache" / "artifacts"
    assert active["artifact_digest"] in {path.name for path in cache.iterdir()}
    assert stop(clock) == 0
    # A service that ends in order takes itself out at once.
    assert stop(services[0]) == 0
    assert two.get("/models/active")["propagated"] == "1/1"
