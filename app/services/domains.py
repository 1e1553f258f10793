"""Domains: make one, find one, and hold one still while something about it is decided."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Domain, Label, ModelActivation, ModelVersion, RuleSet
from app.errors import (
    DomainExists,
    DomainNotFound,
    Malformed,
    MixRefused,
    NoBaseModel,
    TaskUnsupported,
    TaxonomyEmpty,
    UnknownLabel,
)
from app.intent.recipes import WITH_BASE
from app.intent.releases import DomainState, Release
from app.intent.rules import Rule, rule_from_json
from app.intent.selection_mix import check_mix
from app.intent.taxonomy import near_labels
from app.services import leases

DEFAULT = "default"
# What a person may change about a domain that exists.
CHANGEABLE = (
    "gate", "recipe", "base_model", "rule_policy", "threshold_policy", "selection_mix", "confusion_pairs", "overlap",
    "overlap_share",
)  # fmt: skip
# Names stand in ids of batches and versions, in paths and in file names.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")


def create(
    session: Session,
    name: str,
    *,
    task: str = "single_label",
    keep_text: bool = True,
    gate: str = "auto",
    recipe: str = "ngram",
    base_model: str | None = None,
    rule_policy: str = "auto",
    threshold_policy: str = "sweep",
    selection_mix: Mapping[str, float] | None = None,
    confusion_pairs: Sequence[Sequence[str]] | None = None,
    overlap: int = 1,
    overlap_share: float = 1.0,
) -> Domain:
    """Make a domain without labels.

    Raises:
        Malformed: the name is not 1–48 of a–z, 0–9, `_` and `-`, beginning with a letter or digit.
        TaskUnsupported: multi-label domains cannot be trained yet.
        DomainExists: the name is taken.
        NoBaseModel: the recipe starts from a base model, and none is named.
        MixRefused: the mix is none.
        TaxonomyEmpty: it has no labels yet that could be confused.
    """
    if not NAME.fullmatch(name):
        raise Malformed("a domain's name is 1–48 of a–z, 0–9, '_' and '-', and begins with a letter or digit")
    if task != "single_label":
        raise TaskUnsupported(f"a {task} domain cannot be trained yet: only single_label domains can be made")
    if session.scalar(select(Domain.id).where(Domain.name == name)) is not None:
        raise DomainExists(f"domain {name!r} exists")
    domain = Domain(
        name=name,
        task=task,
        keep_text=keep_text,
        gate=gate,
        recipe=recipe,
        base_model=base_model,
        rule_policy=rule_policy,
        threshold_policy=threshold_policy,
        selection_mix=_mix(selection_mix),
        overlap=overlap,
        overlap_share=overlap_share,
    )
    require_base(domain, recipe)
    session.add(domain)
    session.flush()
    domain.confusion_pairs = _pairs(session, domain, confusion_pairs)
    session.flush()
    return domain


def change(session: Session, name: str, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change how a domain trains and decides. Returns what was and what is, of the fields that differ now.

    `changes`: of `CHANGEABLE`, checked by whoever read them. What is trained next follows them; what serves stays. An
    empty mix is the default one.

    Raises:
        DomainNotFound.
        NoBaseModel: the recipe starts from a base model, and none is named.
        MixRefused: the mix is none.
        UnknownLabel, TaxonomyEmpty: a pair names what is no label of the domain.
    """
    domain = locked(session, name)
    before = {field: getattr(domain, field) for field in CHANGEABLE}
    checked = dict(changes)
    if "selection_mix" in changes:
        checked["selection_mix"] = _mix(changes["selection_mix"])
    if "confusion_pairs" in changes:
        checked["confusion_pairs"] = _pairs(session, domain, changes["confusion_pairs"])
    for field in CHANGEABLE:
        if field in checked:
            setattr(domain, field, checked[field])
    require_base(domain, domain.recipe)
    session.flush()
    changed = [field for field in CHANGEABLE if getattr(domain, field) != before[field]]
    if "overlap" in changed or "overlap_share" in changed:
        leases.close_slots(session, domain.id)
    return {field: before[field] for field in changed}, {field: getattr(domain, field) for field in changed}


def _mix(given: Mapping[str, float] | None) -> dict[str, float] | None:
    if not given:
        return None
    try:
        check_mix(given)
    except ValueError as error:
        raise MixRefused(str(error)) from error
    return {name: float(share) for name, share in given.items()}


def _pairs(session: Session, domain: Domain, given: Sequence[Sequence[str]] | None) -> list[list[str]] | None:
    """Pairs of the domain's labels, each once, the order within it without meaning."""
    if not given:
        return None
    paths = session.scalars(select(Label.path).where(Label.domain_id == domain.id, Label.status == "active")).all()
    if not paths:
        raise TaxonomyEmpty(f"domain {domain.name!r} has no labels yet: import its taxonomy first")
    for path in (path for pair in given for path in pair):
        if path not in paths:
            near = near_labels(path, paths)
            raise UnknownLabel(
                f"a confused pair names what is no label of domain {domain.name!r}; near ones: "
                f"{', '.join(near) or 'none'}",
                near=near,
            )
    if any(len(set(pair)) != 2 for pair in given):
        raise Malformed("a confused pair is two different labels")
    return [list(pair) for pair in dict.fromkeys(tuple(sorted(pair)) for pair in given)]


def require_base(domain: Domain, recipe: str) -> None:
    """Refuse a recipe for which this domain has nothing to start from.

    Raises:
        NoBaseModel.
    """
    if recipe in WITH_BASE and not domain.base_model:
        raise NoBaseModel(
            f"the recipe {recipe!r} starts from a base model and domain {domain.name!r} names none: set its base_model "
            "to a name that `intentloop models pull` fetched, or to a folder"
        )


def ensure_default(session: Session) -> None:
    """Make the domain `default` unless it is there."""
    if session.scalar(select(Domain.id).where(Domain.name == DEFAULT)) is None:
        create(session, DEFAULT)


def find(session: Session, name: str) -> Domain:
    """The domain of this name.

    Raises:
        DomainNotFound: there is none.
    """
    domain = session.scalar(select(Domain).where(Domain.name == name))
    if domain is None:
        # The name came from outside and may be anything: it is not repeated.
        raise DomainNotFound("there is no domain of this name")
    return domain


def locked(session: Session, name: str) -> Domain:
    """The domain, held until the transaction ends: whoever decides about its batches or versions waits in line here.

    Raises:
        DomainNotFound: there is none.
    """
    # Not its key: PostgreSQL's intake, whose rows refer to the domain, does not wait in this line.
    domain = session.scalar(
        select(Domain)
        .where(Domain.name == name)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if domain is None:
        raise DomainNotFound("there is no domain of this name")
    return domain


def listing(session: Session) -> Sequence[Domain]:
    """All domains, the oldest first."""
    return session.scalars(select(Domain).order_by(Domain.id)).all()


def states(session: Session) -> list[DomainState]:
    """What a service polls, several times a second: no joins, a handful of columns."""
    rows = session.execute(
        select(Domain.id, Domain.name, Domain.task, Domain.keep_text, Domain.epoch, Domain.taxonomy_version).order_by(
            Domain.id
        )
    )
    return [DomainState(*row) for row in rows]


def label_paths(session: Session, domain_id: int) -> dict[int, str]:
    """Today's path of every label that ever was in the domain."""
    rows = session.execute(select(Label.id, Label.path).where(Label.domain_id == domain_id)).all()
    return {label_id: path for label_id, path in rows}  # noqa: C416


def release(session: Session, domain_id: int) -> Release:
    """What this domain is to serve now, read in one transaction so that its parts belong together.

    Raises:
        DomainNotFound: there is none.
    """
    domain = session.get(Domain, domain_id)
    if domain is None:
        raise DomainNotFound
    state = DomainState(domain.id, domain.name, domain.task, domain.keep_text, domain.epoch, domain.taxonomy_version)
    paths = label_paths(session, domain_id)
    if domain.epoch == 0:
        return Release(state, None, None, None, 1.0, paths)
    activation, version = session.execute(
        select(ModelActivation, ModelVersion)
        .outerjoin(ModelVersion, ModelActivation.version_id == ModelVersion.id)
        .where(ModelActivation.domain_id == domain_id, ModelActivation.epoch == domain.epoch)
    ).one()
    generative = session.get(ModelVersion, activation.generative_version_id or 0)
    return Release(
        state,
        version.id if version else None,
        version.version if version else None,
        version.artifact_digest if version else None,
        activation.threshold,
        paths,
        activation.rule_set_revision,
        tuple(_rules(session, domain_id, activation.rule_set_revision)),
        activation.fusion,
        generative.version if generative else None,
        generative.artifact_digest if generative else None,
    )


def _rules(session: Session, domain_id: int, revision: int | None) -> Iterator[Rule]:
    if revision is not None:
        frozen = session.scalars(
            select(RuleSet.rules).where(RuleSet.domain_id == domain_id, RuleSet.revision == revision)
        ).one()
        yield from map(rule_from_json, frozen)
