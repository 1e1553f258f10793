"""A service with keys, two domains that hold the same things, and how to ask each of its routes."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import KeywordRule, RuleSet, Scenario, TaxonomyChange
from app.main import create_app
from app.services import activations, annotations, audit, batches, domains, flags, keys, taxonomy
from app.services.audit import COMMAND_LINE
from app.services.taxonomy_changes import Touched
from app.settings import Settings
from tests.api.conftest import LOOP, Service
from tests.builders import ask, make_labelled_texts, make_version, trainable_text

ROLES = keys.ROLES
# Stands in everything that a domain holds: if it is in an answer, something of the domain is.
CANARIES = {"kanari": "金丝雀甲", "zeisig": "黄雀乙"}
ABSENT = {
    "domain": "nowhere",
    "question_id": "01a204cb-0000-7000-8000-000000000000",
    "batch_id": "nowhere-b1",
    "version": "nowhere-v1",
    "rule_id": "999999",
    "scenario_id": "999999",
    "change_id": "999999",
    "id": "999999",
}


def api_routes(app: FastAPI) -> Iterator[APIRoute]:
    """Every route of the application, those of its routers too."""
    waiting: list[Any] = list(app.routes)
    while waiting:
        route = waiting.pop(0)
        if isinstance(route, APIRoute):
            yield route
        inner = getattr(route, "original_router", None)
        if inner is not None:
            waiting.extend(inner.routes)


def operations() -> dict[str, dict[str, Any]]:
    """What the OpenAPI document lists, by `METHOD path`."""
    document = create_app(Settings(_env_file=None)).openapi()
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


OPERATIONS = operations()

# A body that each route takes. A route that is missing here is asked with an empty object.
BODIES: Mapping[str, Any] = {
    "POST /classify": lambda ids: {"text": "手机开不了机", "domain": ids["domain"]},
    "POST /classify/batch": lambda ids: {"texts": ["手机开不了机"], "domain": ids["domain"]},
    "POST /refine": lambda ids: {"text": "手机开不了机", "domain": ids["domain"]},
    f"POST {LOOP}/questions": lambda ids: {"question": "屏幕碎了", "domain": ids["domain"]},
    f"POST {LOOP}/questions/{{question_id}}/label": lambda ids: {
        "correct_intent": [ids.get("label", "没有")],
        "labeler_id": "ana",
    },
    f"POST {LOOP}/questions/{{question_id}}/skip": lambda _: {"labeler_id": "ana"},
    f"POST {LOOP}/questions/{{question_id}}/release": lambda _: {"labeler_id": "ana"},
    f"POST {LOOP}/questions/{{question_id}}/discard": lambda _: {"labeler_id": "ana"},
    f"POST {LOOP}/questions/{{question_id}}/flag": lambda _: {"labeler_id": "ana"},
    f"POST {LOOP}/labels/undo": lambda ids: {"labeler_id": "ana", "count": 1, "domain": ids["domain"]},
    f"POST {LOOP}/batches": lambda ids: {"domain": ids["domain"]},
    f"POST {LOOP}/models/rollback": lambda ids: {"domain": ids["domain"]},
    f"PUT {LOOP}/taxonomy": lambda ids: [ids.get("label", "没有"), "别的"],
    f"POST {LOOP}/taxonomy/changes": lambda ids: {
        "kind": "rename",
        "label": ids.get("label", "没有"),
        "to": "改名",
        "domain": ids["domain"],
        "dry_run": True,
    },
    f"POST {LOOP}/keywords": lambda ids: {
        "keyword": "屏幕",
        "intent": ids.get("label", "没有"),
        "domain": ids["domain"],
    },
    f"PATCH {LOOP}/keywords/{{rule_id}}": lambda _: {"status": "active"},
    f"POST {LOOP}/scenarios/{{scenario_id}}/accept": lambda ids: {"label": f"{ids.get('label', '没有')}了"},
    f"POST {LOOP}/domains": lambda _: {"name": "new-one"},
}
EXTRA: Mapping[str, dict[str, str]] = {
    f"DELETE {LOOP}/questions/{{question_id}}/label": {"labeler_id": "ana"},
    f"DELETE {LOOP}/questions/{{question_id}}/flag": {"labeler_id": "ana"},
}


@dataclass
class Door:
    """The service, its keys by (role, domain or None for all), and the ids of what each domain holds."""

    service: Service
    keys: dict[tuple[str, str | None], str] = field(default_factory=dict)
    ids: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def work(self) -> UnitOfWork:
        return self.service.services.work

    def key(self, role: str, domain: str | None = None, **more: Any) -> str:
        """The credential of such a key; made anew when it is to be a special one."""
        if more or (role, domain) not in self.keys:
            wanted = [domain] if domain else None
            _, made = self.work(keys.create, role, by=COMMAND_LINE, domains=wanted, **more)
            if more:
                return made
            self.keys[role, domain] = made
        return self.keys[role, domain]

    def ask(self, operation: str, credential: str | None, ids: Mapping[str, str]) -> httpx.Response:
        """Ask a route for what these ids name."""
        method, _, path = operation.partition(" ")
        for name, value in ids.items():
            path = path.replace(f"{{{name}}}", value)
        described = OPERATIONS[operation]
        named = {parameter["name"] for parameter in described.get("parameters", []) if parameter["in"] == "query"}
        parameters = {"domain": ids["domain"]} if "domain" in named else {}
        body = BODIES.get(operation, lambda _: {})(ids) if "requestBody" in described else None
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        return self.service.http.request(
            method, path, params=parameters | EXTRA.get(operation, {}), json=body, headers=headers
        )


def plant(door: Door) -> None:
    """The same things in each domain, all of which carry its canary."""
    for name, canary in CANARIES.items():
        door.work(domains.create, name)
        label, other = f"{canary} > 标签", f"{canary} > 另一个"
        make_labelled_texts(door.work, {label: 3, other: 3}, domain=name)
        [question_id] = ask(door.work, trainable_text(f"{canary}的问题 {name}"), domain=name, request_id=f"{name}-1")
        [disputed] = ask(door.work, trainable_text(f"{canary}的争议 {name}"), domain=name)
        door.work(domains.change, name, {"overlap": 2})
        for labeler_id, path in (("eve", label), ("bo", other)):
            door.work(annotations.submit, disputed, correct_intent=[path], labeler_id=labeler_id)
        door.work(domains.change, name, {"overlap": 1})
        door.work(flags.flag, disputed, labeler_id="eve")
        ids = door.work(_rest, name, canary, label)
        door.ids[name] = {"domain": name, "label": label, "question_id": question_id, **ids}


def _rest(session: Session, name: str, canary: str, label: str) -> dict[str, str]:
    evaluation = {"gold": {"count": 60, "canary": canary}}
    first, second = (make_version(session, domain=name, evaluation=evaluation) for _ in range(2))
    for version in (first, second):
        activations.activate(session, version.version, by=canary, reason=f"{canary}的理由")
    batch = batches.open_batch(session, name, opened_by=canary, description=f"{canary}的批次")
    owner = domains.locked(session, name)
    label_id = next(row.id for row in taxonomy.active(session, owner.id) if row.path == label)
    rule = KeywordRule(
        domain_id=owner.id, keyword=canary, intent=label, label_id=label_id, status="active", source="manual",
        all_of=[canary], reason=f"{canary}的理由", created_by=canary, support=9, precision=0.9, precision_lower=0.8,
    )  # fmt: skip
    session.add(rule)
    owner.rule_seq = 1
    session.add(RuleSet(domain_id=owner.id, revision=1, digest=canary, rules=[], reason=canary, created_by=canary))
    scenario = Scenario(domain_id=owner.id, text_count=9, question_count=9, keywords=[canary], typical=[])
    session.add(scenario)
    change = TaxonomyChange(
        domain_id=owner.id, kind="rename", arguments={"labels": [canary]}, touched=asdict(Touched()),
        before={"labels": {}, "after": {}}, taxonomy_version=1, made_by=canary, reason=canary,
    )  # fmt: skip
    session.add(change)
    audit.note(session, COMMAND_LINE, "test.plant", canary, domain_id=owner.id, after={"canary": canary})
    session.flush()
    return {
        "batch_id": batch.batch_id,
        "version": first.version,
        "rule_id": str(rule.id),
        "keyword_id": str(rule.id),
        "scenario_id": str(scenario.id),
        "id": str(rule.id),
        "change_id": str(change.id),
    }
