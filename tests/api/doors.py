"""A service with keys, two domains that hold the same things, and how to ask each of its routes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import KeywordRule, RuleSet
from app.main import create_app
from app.services import activations, audit, batches, domains, keys, taxonomy
from app.services.audit import COMMAND_LINE
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
    f"POST {LOOP}/batches": lambda ids: {"domain": ids["domain"]},
    f"POST {LOOP}/models/rollback": lambda ids: {"domain": ids["domain"]},
    f"PUT {LOOP}/taxonomy": lambda ids: [ids.get("label", "没有"), "别的"],
    f"POST {LOOP}/keywords": lambda ids: {
        "keyword": "屏幕",
        "intent": ids.get("label", "没有"),
        "domain": ids["domain"],
    },
    f"PATCH {LOOP}/keywords/{{rule_id}}": lambda _: {"status": "active"},
    f"POST {LOOP}/domains": lambda _: {"name": "new-one"},
}
EXTRA: Mapping[str, dict[str, str]] = {f"DELETE {LOOP}/questions/{{question_id}}/label": {"labeler_id": "ana"}}


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
    audit.note(session, COMMAND_LINE, "test.plant", canary, domain_id=owner.id, after={"canary": canary})
    session.flush()
    return {
        "batch_id": batch.batch_id,
        "version": first.version,
        "rule_id": str(rule.id),
        "keyword_id": str(rule.id),
        "id": str(rule.id),
    }
