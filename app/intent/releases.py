"""What a domain is to serve, as a value: read from the database by one side, loaded by the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.intent.rules import Rule


@dataclass(frozen=True, slots=True)
class DomainState:
    """The few columns that a service polls: any change of them is a change of what it serves."""

    domain_id: int
    name: str
    task: str
    keep_text: bool
    epoch: int
    taxonomy_version: int


@dataclass(frozen=True, slots=True)
class Release:
    """One activation, whole: artifact, rules, the fusion and threshold fitted for both, today's names of the labels.

    `paths` maps the id of every label that ever was in the domain to its path today; an artifact that names another id
    is refused.
    """

    state: DomainState
    version_id: int | None
    version: str | None
    artifact_digest: str | None
    threshold: float
    paths: Mapping[int, str]
    rule_set_revision: int | None = None
    rules: tuple[Rule, ...] = ()
    fusion: Mapping[str, Any] | None = None
    # What is asked below the threshold, where the installation has the generative tier switched on.
    generative_version: str | None = None
    generative_digest: str | None = None
