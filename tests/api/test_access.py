"""Who may enter, as what, and what is there for them: every route, with no key, a wrong one, and another domain's."""

import ast
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import limits.storage.memory
import limits.strategies
import pytest
from sqlalchemy import Connection, event, update

from app.api import keyring
from app.api.access import needed
from app.db.tables import ApiKey, AuditEvent, ModelActivation
from app.main import create_app
from app.services import activations, keys
from app.services.audit import COMMAND_LINE
from app.settings import Settings
from tests.api.conftest import LOOP, Service, served, wait_for
from tests.api.doors import ABSENT, CANARIES, OPERATIONS, ROLES, Door, api_routes, plant
from tests.builders import column, make_labelled_texts, make_version
from tests.conftest import Databases

# These tell nothing of what the installation holds, and whoever watches a service has no key.
OPEN = {"GET /healthz", "GET /readyz", "GET /docs", "GET /docs/oauth2-redirect"}
GUARDED = [operation for operation in OPERATIONS if operation not in OPEN]
NEEDED = {
    f"{method} {route.path}": taken.roles
    for route in api_routes(create_app(Settings(_env_file=None)))
    if (taken := needed(route)) is not None
    for method in route.methods or ()
}


@pytest.fixture(scope="module")
def door(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Two domains full of canaries and a key of each kind. Tests may add, but not take away."""
    folder = tmp_path_factory.mktemp("door")
    with pytest.MonkeyPatch.context() as patch, served(databases.fresh("sqlite", folder), folder) as service:
        # Every wrong key of these tests would wait so long for its turn to be looked for.
        patch.setattr(keyring, "LOOK_AGAIN_SECONDS", 0.005)
        made = Door(service)
        plant(made)
        for role in ROLES:
            for domain in (None, *CANARIES):
                made.key(role, domain)
        wait_for(lambda: service.services.keys.guarded)
        yield made


def test_every_route_names_its_role_or_is_known_to_be_open() -> None:
    routes = {
        f"{method} {route.path}" for route in api_routes(create_app(Settings(_env_file=None)))
        for method in route.methods or ()
    }  # fmt: skip
    assert len(routes) > 20
    assert routes - set(NEEDED) == OPEN
    assert set(GUARDED) == set(NEEDED)


def test_the_document_says_which_role_each_route_takes() -> None:
    for operation in GUARDED:
        described = OPERATIONS[operation]
        assert described["security"] == [{"Bearer": []}, {"ApiKey": []}], operation
        assert all(role in described["description"].rpartition("Role: ")[2] for role in NEEDED[operation]), operation
        assert {"401", "403", "429"} <= set(described["responses"]), operation


@pytest.mark.parametrize("operation", GUARDED)
def test_without_a_key_no_route_answers(door: Door, operation: str) -> None:
    for credential in (
        None,
        "il_000000000000_a-guess-of-the-right-form",
        "nonsense",
        door.key("admin")[:-1],
        door.key("admin") + "x",
    ):
        answer = door.ask(operation, credential, door.ids["kanari"])
        assert answer.status_code == 401, credential
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("operation", GUARDED)
def test_a_key_of_another_role_is_refused_and_one_of_the_right_role_enters(door: Door, operation: str) -> None:
    for role in ROLES:
        answer = door.ask(operation, door.key(role), ABSENT)
        if role in NEEDED[operation]:
            assert answer.status_code not in (401, 403), (role, answer.text)
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), role
            assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("operation", GUARDED)
def test_what_is_of_another_domain_is_answered_as_what_does_not_exist(door: Door, operation: str) -> None:
    for role in sorted(NEEDED[operation]):
        key = door.key(role, "kanari")
        foreign, absent = door.ask(operation, key, door.ids["zeisig"]), door.ask(operation, key, ABSENT)
        assert (foreign.status_code, _told(foreign)) == (absent.status_code, _told(absent)), role
        assert CANARIES["zeisig"] not in foreign.text
        assert "zeisig" not in foreign.text
        if "zeisig" in str(foreign.request.url) or b"zeisig" in foreign.request.content:
            assert foreign.status_code == 404, foreign.text


def _told(answer: Any) -> Any:
    return answer.headers.get("Content-Type"), answer.json() if answer.content else None


@pytest.mark.parametrize("mine", CANARIES)
@pytest.mark.parametrize("operation", GUARDED)
def test_no_route_shows_anything_of_another_domain(door: Door, operation: str, mine: str) -> None:
    [other] = set(CANARIES) - {mine}
    for role in sorted(NEEDED[operation]):
        for ids in (door.ids[mine], door.ids[other], {**door.ids[mine], "domain": other}):
            answer = door.ask(operation, door.key(role, mine), ids)
            # The generative tier is switched off here, which it says of a domain of one's own alone.
            assert answer.status_code < 500 or answer.json()["code"] == "generative_unavailable"
            assert CANARIES[other] not in answer.text
            assert other not in answer.text.replace(str(answer.request.url), "")


def test_the_canaries_are_there_to_be_seen(door: Door) -> None:
    """The test above has teeth: who may see a domain finds its canary on every route that shows something."""
    seen = {
        operation
        for operation in GUARDED
        if operation.startswith("GET")
        and CANARIES["zeisig"] in door.ask(operation, door.key("admin", "zeisig"), door.ids["zeisig"]).text
    }
    assert {
        f"GET {LOOP}{path}"
        for path in ("/stats", "/taxonomy", "/questions/{question_id}", "/batches", "/batches/{batch_id}", "/models",
                     "/models/active", "/models/{version}", "/questions/disputed", "/questions/flagged", "/agreement")
    } <= seen  # fmt: skip
    listed = door.ask(f"GET {LOOP}/domains", door.key("labeler", "zeisig"), door.ids["zeisig"]).json()["items"]
    assert [domain["name"] for domain in listed] == ["zeisig"]
    queue = door.ask(f"GET {LOOP}/questions/unlabeled", door.key("labeler", "zeisig"), door.ids["zeisig"])
    assert CANARIES["zeisig"] in queue.text


def test_only_a_key_for_all_domains_makes_one(door: Door) -> None:
    answer = door.ask(f"POST {LOOP}/domains", door.key("admin", "kanari"), door.ids["kanari"])
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_many_predictions_reach_only_the_domains_of_the_key(door: Door) -> None:
    items = [{"question": "碎屏", "domain": name} for name in ("kanari", "zeisig", "nowhere", "default")]
    answer = door.service.post(
        f"{LOOP}/questions", {"questions": items}, headers={"X-API-Key": door.key("product", "kanari")}
    )
    first, *refused = answer.json()["results"]
    assert first["status"] == "created"
    assert [result["error"]["code"] for result in refused] == ["domain_not_found"] * 3
    assert refused[0] == refused[1] == refused[2]


# How a key is sent


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {"Authorization": f"Bearer {key}"},
        lambda key: {"authorization": f"bearer  {key} "},
        lambda key: {"X-API-Key": key},
        lambda key: {"Authorization": "Basic YTpi", "X-API-Key": key},
    ],
    ids=["bearer", "in any case", "own header", "beside another scheme"],
)
def test_a_key_is_sent_in_either_header(door: Door, headers: Any) -> None:
    answer = door.service.post("/classify", {"text": "你好"}, headers=headers(door.key("product")))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Bearer il", "Bearer il_", "Bearer il__", "Bearer il_a_b_c", "Basic YTpi", "x" * 9000,
     "Bearer " + "il_" * 3000, "Bearer \xff\xfe", "Bearer null", "Bearer il_%00_x"],
)  # fmt: skip
def test_what_is_no_key_opens_nothing(door: Door, value: str) -> None:
    answer = door.service.http.get(f"{LOOP}/stats", headers=[(b"authorization", value.encode("latin-1"))])
    assert answer.status_code == 401, answer.text
    assert answer.json()["code"] == "unauthenticated"


def test_a_body_is_not_read_for_who_may_not_enter(door: Door) -> None:
    for key, status in ((None, 401), (door.key("labeler"), 403)):
        headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
        assert door.service.http.post("/classify", content=b"{not json", headers=headers).status_code == status


# Open routes


def test_who_watches_the_service_needs_no_key_and_learns_no_name(door: Door) -> None:
    assert door.service.get("/healthz").json() == {"status": "ok"}
    for key in (None, "il_000000000000_a-guess-of-the-right-form", door.key("product"), door.key("labeler")):
        answer = door.service.http.get("/readyz", headers={"X-API-Key": key} if key else {})
        assert (answer.status_code, answer.json()["domains"]) == (200, [])
    all_of_them = door.service.http.get("/readyz", headers={"X-API-Key": door.key("admin")}).json()["domains"]
    assert {domain["domain"] for domain in all_of_them} >= {"default", *CANARIES}
    own = door.service.http.get("/readyz", headers={"X-API-Key": door.key("admin", "kanari")}).json()["domains"]
    assert [domain["domain"] for domain in own] == ["kanari"]
    assert door.service.get("/docs").status_code == door.service.get("/openapi.json").status_code == 200


# Labelers


def test_a_labelers_key_speaks_for_one_labeler(door: Door) -> None:
    headers = {"X-API-Key": door.key("labeler", "kanari", name="ben")}
    base = f"{LOOP}/questions/{door.ids['kanari']['question_id']}"
    others = [
        door.service.post(f"{base}/label", {"correct_intent": ["x"], "labeler_id": "ana"}, headers=headers),
        door.service.post(f"{base}/skip", {"labeler_id": "ana"}, headers=headers),
        door.service.post(f"{base}/release", {"labeler_id": "ana"}, headers=headers),
        door.service.http.delete(f"{base}/label", params={"labeler_id": "ana"}, headers=headers),
        door.service.http.get(
            f"{LOOP}/questions/unlabeled", params={"labeler_id": "ana", "domain": "kanari"}, headers=headers
        ),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in others] == [(403, "other_labeler")] * 5
    label = {"correct_intent": [door.ids["kanari"]["label"]], "labeler_id": "ben"}
    assert door.service.post(f"{base}/label", label, headers=headers).status_code == 200
    took = door.service.http.delete(f"{base}/label", params={"labeler_id": "ben"}, headers=headers)
    assert took.json()["state"] == "unlabelled"


def test_a_labelers_key_without_a_name_speaks_for_any(door: Door) -> None:
    answer = door.service.http.get(
        f"{LOOP}/questions/unlabeled", params={"labeler_id": "eva"}, headers={"X-API-Key": door.key("labeler")}
    )
    assert answer.status_code == 200


# Who did it


def test_with_a_key_its_name_stands_in_the_records_and_not_what_the_body_says(service: Service) -> None:
    work = service.services.work
    # It would find no artifact behind the versions of this test, and give them up.
    service.services.watcher.stop()
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    for _ in range(2):
        name = work(lambda session: make_version(session).version)
        work(activations.activate, name, by="test", reason="test")
    key, credential = work(keys.create, "admin", by=COMMAND_LINE, name="olga")
    service.services.keys.refresh()
    headers, body = {"X-API-Key": credential}, {"by": "somebody else", "reason": "try"}
    answers = [
        service.post(f"{LOOP}/models/rollback", body, headers=headers).json(),
        service.post(f"{LOOP}/models/{name}/activate", body, headers=headers).json(),
        service.post(f"{LOOP}/batches", {}, headers=headers).json(),
    ]
    assert [answer.get("activated_by", answer.get("opened_by")) for answer in answers] == ["olga"] * 3
    assert "somebody else" not in column(work, ModelActivation.activated_by)
    rows = column(work, AuditEvent.actor, AuditEvent.key_id, AuditEvent.action)
    assert [action for *who, action in rows if who == ["olga", key.key_id]] == [
        "version.rollback", "version.activate", "batch.open",
    ]  # fmt: skip


# A key's life


def test_a_new_key_opens_at_once_and_a_revoked_one_no_longer_after_a_second(door: Door) -> None:
    key, credential = door.work(keys.create, "product", by=COMMAND_LINE)
    headers = {"X-API-Key": credential}
    assert door.service.post("/classify", {"text": "你好"}, headers=headers).status_code == 200
    wait_for(lambda: dict(column(door.work, ApiKey.key_id, ApiKey.last_used_at))[key.key_id] is not None)
    door.work(keys.revoke, key.key_id, by=COMMAND_LINE)
    wait_for(lambda: door.service.post("/classify", {"text": "你好"}, headers=headers).status_code == 401)


def test_a_key_ends_when_its_time_is_over(door: Door) -> None:
    key, credential = door.work(keys.create, "product", by=COMMAND_LINE, expires_days=1)
    headers = {"X-API-Key": credential}
    assert door.service.post("/classify", {"text": "你好"}, headers=headers).status_code == 200
    past = datetime.now(UTC) - timedelta(seconds=1)
    door.work(lambda session: session.execute(update(ApiKey).where(ApiKey.id == key.id).values(expires_at=past)))
    door.service.services.keys.refresh()
    assert door.service.post("/classify", {"text": "你好"}, headers=headers).status_code == 401


def test_letting_in_asks_the_database_nothing(service: Service) -> None:
    asked: list[str] = []

    def note(_: Connection, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    _, credential = service.services.work(keys.create, "product", by=COMMAND_LINE, domains=["default"])
    headers = {"X-API-Key": credential}
    assert service.post("/classify", {"text": "你好"}, headers=headers).status_code == 200
    service.services.keys.refresh()
    service.services.porter.stop()
    event.listen(service.services.engine, "before_cursor_execute", note)
    for _ in range(5):
        assert service.post("/classify", {"text": "你好"}, headers=headers).status_code == 200
    event.remove(service.services.engine, "before_cursor_execute", note)
    assert any("intent_user_questions" in statement for statement in asked)
    assert not any("intent_api_keys" in statement for statement in asked)


def test_each_key_has_its_own_rate_and_is_told_when_to_come_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    hasty, calm = (door.key("product", rate_per_minute=rate) for rate in (3, 1000))
    door.service.services.keys.refresh()

    def statuses(key: str, count: int) -> list[int]:
        return [
            door.service.post("/classify", {"text": "你好"}, headers={"X-API-Key": key}).status_code
            for _ in range(count)
        ]

    assert statuses(hasty, 4) == [200, 200, 200, 429]
    assert statuses(calm, 5) == [200] * 5
    refused = door.service.http.get(f"{LOOP}/stats", headers={"X-API-Key": hasty})
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    seconds = int(refused.headers["Retry-After"])
    assert 1 <= seconds <= 60
    later = time.time() + seconds
    for module in (limits.storage.memory, limits.strategies):
        monkeypatch.setattr(module.time, "time", lambda: later)
    assert statuses(hasty, 1) == [200]


# The first key, and the last


def test_the_first_key_closes_the_door_and_the_last_one_leaves_it_closed(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path) as service:
        assert service.classify("你好")["method"] == "none"
        key, credential = service.services.work(keys.create, "product", by=COMMAND_LINE)
        wait_for(lambda: service.post("/classify", {"text": "你好"}).status_code == 401)
        assert service.post("/classify", {"text": "你好"}, headers={"X-API-Key": credential}).status_code == 200
        service.services.work(keys.revoke, key.key_id, by=COMMAND_LINE)
        wait_for(
            lambda: service.post("/classify", {"text": "你好"}, headers={"X-API-Key": credential}).status_code == 401
        )
        assert service.post("/classify", {"text": "你好"}).status_code == 401
    with served(sqlite_url, tmp_path) as again:
        assert again.post("/classify", {"text": "你好"}).status_code == 401


def test_an_open_service_says_so_when_it_starts(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(sqlite_url, tmp_path) as service:
        assert "there is no key" in caplog.text
        service.services.work(keys.create, "product", by=COMMAND_LINE)
    caplog.clear()
    with served(sqlite_url, tmp_path):
        assert "there is no key" not in caplog.text


def test_routes_reach_the_database_through_the_callers_unit_of_work() -> None:
    """`Services.work` sees every domain: only metrics take it, which are for a key of all domains."""
    folder = Path(create_app.__code__.co_filename).parent / "api"
    takers = {
        (path.name, ast.unparse(node))
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("work", "engine")
    }
    assert takers == {
        ("dependencies.py", "(await services(request)).work"),
        ("metrics.py", "self.services.work"),
    }
