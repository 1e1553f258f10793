"""Scenarios: keep what was found as proposals, show them, make one a label and ask its questions, or dismiss it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Annotation, Domain, Label, Scenario, Text
from app.errors import Malformed, NotFound, ScenarioDecided
from app.intent.scenarios import is_large_enough
from app.services import answers, audit, domains, proposals, taxonomy, texts
from app.services.audit import Actor
from app.services.scenario_material import may_belong, other_label

TYPICAL: Final = 5
# Above all that was selected otherwise: somebody waits for these answers. The most typical first.
TOP: Final = 2.0
_STEP: Final = 1e-6
# Of a group's members, or of a proposal's: with so many in common the one is the other.
_SHARED: Final = 0.5
_PAGE: Final = 1_000

# The rows are not in the session: there is nothing to bring up to date.
_BLIND: Final = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Group:
    """A group that was found: the ids of its texts, the most typical first, and the words that are typical of it."""

    text_ids: Sequence[int]
    keywords: Sequence[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of groups: new proposals, such as were there, such as were dismissed before; and proposals gone."""

    new: int = 0
    updated: int = 0
    dismissed: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a scenario: its label, whether that is a new one, and how many texts wait for it now."""

    scenario: Scenario
    label: Label
    created: bool
    queued: int


@dataclass(frozen=True, slots=True)
class _Member:
    text_id: int
    count: int
    scenario_id: int | None
    may_belong: bool


def store(session: Session, domain_name: str, groups: Sequence[Group]) -> Outcome:
    """Make these groups the proposals of a domain.

    A group that shares half of its texts with a proposal, or half of that one's, is the same one, grown or shrunk. One
    that shares half with something dismissed is not proposed again; its new members are counted to what was dismissed.
    A proposal that is found no more goes.
    """
    domain = domains.locked(session, domain_name)
    known = {row.id: row for row in session.scalars(select(Scenario).where(Scenario.domain_id == domain.id))}
    proposed = [scenario.id for scenario in known.values() if scenario.status == "proposed"]
    there = _lock(session, domain, groups, proposed)
    kept = [(group, found) for group in groups if (found := _still(group, there, known))]
    matches = _matches([found for _, found in kept], there, known)
    outcome: Counter[str] = Counter()
    owners: dict[int, int | None] = {}
    for (group, found), scenario in zip(kept, matches, strict=True):
        if scenario is not None and scenario.status == "dismissed":
            outcome["dismissed"] += 1
        else:
            outcome["updated" if scenario is not None else "new"] += 1
            scenario = _describe(session, scenario or Scenario(domain_id=domain.id), group, found)
        owners.update((member.text_id, scenario.id) for member in found)
    for scenario_id in set(proposed) - set(owners.values()):
        session.delete(known[scenario_id])
        outcome["gone"] += 1
    left = {text_id for text_id, member in there.items() if member.scenario_id in proposed} - owners.keys()
    _point(session, owners | dict.fromkeys(left), there)
    session.flush()
    return Outcome(**outcome)


def _lock(session: Session, domain: Domain, groups: Sequence[Group], proposed: Sequence[int]) -> dict[int, _Member]:
    """The texts of the groups and of what is proposed, locked in the order of their ids; not those that are gone."""
    wanted = {text_id for group in groups for text_id in group.text_ids}
    if proposed:
        wanted.update(session.scalars(select(Text.id).where(Text.scenario_id.in_(proposed))))
    may = may_belong(other_label(session, domain.id)).label("may_belong")
    ordered = sorted(wanted)
    there: dict[int, _Member] = {}
    for start in range(0, len(ordered), _PAGE):
        rows = session.execute(
            select(Text.id, Text.count, Text.scenario_id, may)
            .where(Text.id.in_(ordered[start : start + _PAGE]), Text.text.is_not(None))
            .order_by(Text.id)
            .with_for_update(key_share=True)
        )
        there.update({row[0]: _Member(row[0], row[1], row[2], bool(row[3])) for row in rows})
    return there


def _still(group: Group, there: Mapping[int, _Member], known: Mapping[int, Scenario]) -> list[_Member]:
    """The members of a group that may still be some; none where they are too few by now, or a text was forgotten."""
    if any(text_id not in there for text_id in group.text_ids):
        # Its words may be among the keywords.
        return []
    members = [there[text_id] for text_id in group.text_ids]
    found = [one for one in members if one.may_belong and _status(known, one.scenario_id) != "accepted"]
    return found if is_large_enough(member.count for member in found) else []


def _status(known: Mapping[int, Scenario], scenario_id: int | None) -> str | None:
    scenario = known.get(scenario_id or 0)
    return scenario.status if scenario is not None else None


def _matches(
    groups: Sequence[Sequence[_Member]], there: Mapping[int, _Member], known: Mapping[int, Scenario]
) -> list[Scenario | None]:
    """What each group was before: of several the one that shares the most. A proposal continues in one group."""
    sizes = Counter(member.scenario_id for member in there.values())
    matches: list[Scenario | None] = [None] * len(groups)
    pairs = []
    for number, group in enumerate(groups):
        for scenario_id, shared in Counter(member.scenario_id for member in group).items():
            if _status(known, scenario_id) == "dismissed" and shared >= _SHARED * len(group):
                matches[number] = known[scenario_id or 0]
            if _status(known, scenario_id) == "proposed" and shared >= _SHARED * min(len(group), sizes[scenario_id]):
                pairs.append((-shared, number, scenario_id or 0))
    taken: set[int] = set()
    for _, number, scenario_id in sorted(pairs):
        if matches[number] is None and scenario_id not in taken:
            matches[number] = known[scenario_id]
            taken.add(scenario_id)
    return matches


def _describe(session: Session, scenario: Scenario, group: Group, found: Sequence[_Member]) -> Scenario:
    scenario.text_count, scenario.question_count = len(found), sum(member.count for member in found)
    scenario.keywords = list(group.keywords)
    scenario.typical = [member.text_id for member in found[:TYPICAL]]
    session.add(scenario)
    session.flush()
    return scenario


def _point(session: Session, owners: Mapping[int, int | None], there: Mapping[int, _Member]) -> None:
    """Let these texts, which are locked, name the scenarios that they are members of now."""
    by_owner: dict[int | None, list[int]] = {}
    for text_id, owner in owners.items():
        if there[text_id].scenario_id != owner:
            by_owner.setdefault(owner, []).append(text_id)
    for owner, ids in by_owner.items():
        for start in range(0, len(ids), _PAGE):
            page = Text.id.in_(ids[start : start + _PAGE])
            session.execute(update(Text).where(page).values(scenario_id=owner), execution_options=_BLIND)


def listing(
    session: Session, domain_id: int, *, limit: int, before: int | None = None, status: str | None = None
) -> Sequence[Scenario]:
    """The scenarios of a domain, the newest first; `before` is the id that the last page ended with."""
    statement = select(Scenario).where(Scenario.domain_id == domain_id, _is_shown())
    if status is not None:
        statement = statement.where(Scenario.status == status)
    if before is not None:
        statement = statement.where(Scenario.id < before)
    return session.scalars(statement.order_by(Scenario.id.desc()).limit(limit)).all()


def find(session: Session, scenario_id: int) -> Scenario:
    """The scenario of this id.

    Raises:
        NotFound: there is none, or it was found no more.
    """
    scenario = session.scalar(select(Scenario).where(Scenario.id == scenario_id, _is_shown()))
    if scenario is None:
        raise NotFound("there is no scenario of this id")
    return scenario


def _is_shown() -> Any:
    return (Scenario.status != "proposed") | (Scenario.text_count > 0)


def typical(session: Session, scenarios: Sequence[Scenario]) -> dict[int, list[Text]]:
    """The typical texts of each scenario, the most typical first, by its id."""
    wanted = {text_id for scenario in scenarios for text_id in scenario.typical}
    rows = session.scalars(select(Text).where(Text.id.in_(wanted), Text.text.is_not(None))) if wanted else ()
    there = {text.id: text for text in rows}
    return {scenario.id: [there[text_id] for text_id in scenario.typical if text_id in there] for scenario in scenarios}


def members_of(session: Session, scenario: Scenario, *, limit: int, before: int | None = None) -> Sequence[Text]:
    """The members of a scenario that are there, the newest first."""
    statement = select(Text).where(Text.scenario_id == scenario.id, Text.text.is_not(None))
    if before is not None:
        statement = statement.where(Text.id < before)
    return session.scalars(statement.order_by(Text.id.desc()).limit(limit)).all()


def accept(
    session: Session, scenario_id: int, label: str, *, by: Actor, guideline: str | None = None, trains_from: int
) -> Accepted:
    """Make a scenario a label, and let its questions be asked before all others; each is still labelled by a person.

    The label trains from so many texts on. If it is there already the questions are asked all the same. Texts that
    carry it as a person's own proposal get it. What was dismissed can be accepted after all.

    Raises:
        NotFound, ScenarioDecided, and what `taxonomy.spec_of` raises.
        Malformed: the label is 其他.
    """
    domain, scenario = _held(session, scenario_id)
    if scenario.status == "accepted":
        raise ScenarioDecided("this scenario is a label already")
    spec, existing = taxonomy.spec_of(session, domain, label, guideline)
    if spec.path == taxonomy.OTHER:
        raise Malformed(f"{taxonomy.OTHER!r} is the label of what fits no other: dismiss the scenario instead")
    before = {"status": scenario.status}
    given = existing or taxonomy.add(session, domain, spec.path, trains_from=trains_from, guideline=spec.guideline)
    proposals.promote(session, domain, spec.path, 1)
    queued = _ask_first(session, domain, scenario, spec.path)
    scenario.status, scenario.label_id = "accepted", given.id
    _decide(session, scenario, by)
    after = {"status": "accepted", "label": spec.path, "queued": queued}
    audit.note(
        session, by, "scenario.accept", f"scenario {scenario.id}", domain_id=domain.id, before=before, after=after
    )
    return Accepted(scenario, given, existing is None, queued)


def dismiss(session: Session, scenario_id: int, *, by: Actor) -> Scenario:
    """Say that a scenario is no label: neither it nor what it grows to is proposed again.

    Raises:
        NotFound, ScenarioDecided.
    """
    domain, scenario = _held(session, scenario_id)
    if scenario.status != "proposed":
        raise ScenarioDecided(f"this scenario is {scenario.status} already")
    scenario.status = "dismissed"
    _decide(session, scenario, by)
    subject = f"scenario {scenario.id}"
    before, after = {"status": "proposed"}, {"status": "dismissed"}
    audit.note(session, by, "scenario.dismiss", subject, domain_id=domain.id, before=before, after=after)
    return scenario


def _held(session: Session, scenario_id: int) -> tuple[Domain, Scenario]:
    """The scenario, whose domain is locked: nobody else decides about it, or finds it anew."""
    domain = session.get(Domain, find(session, scenario_id).domain_id)
    if domain is None:
        raise NotFound("there is no scenario of this id")
    locked = domains.locked(session, domain.name)
    session.expire_all()
    return locked, find(session, scenario_id)


def _decide(session: Session, scenario: Scenario, by: Actor) -> None:
    scenario.decided_by, scenario.decided_at = by.name, database_time(session)
    session.flush()


def _ask_first(session: Session, domain: Domain, scenario: Scenario, path: str) -> int:
    """Put the members that may be asked on top of the queue; what was called 其他 waits again."""
    ids = session.scalars(select(Text.id).where(Text.scenario_id == scenario.id)).all()
    other = other_label(session, domain.id)
    rows = session.scalars(
        select(Text).where(Text.id.in_(ids), may_belong(other)).order_by(Text.id).with_for_update(key_share=True)
    ).all()
    place = {text_id: rank for rank, text_id in enumerate(scenario.typical)}
    ordered = sorted(rows, key=lambda text: (place.get(text.id, TYPICAL), -text.count, text.id))
    queued = 0
    for text in ordered:
        if text.state == "labelled" and text.proposed_label is None:
            _take_back(session, text, path)
        if texts.may_be_asked(text.state, text.text is not None, text.train_allowed):
            text.priority = TOP - queued * _STEP
            text.strategy, text.reason = texts.NEW_SCENARIO, f"looks like the new label {path}"[:255]
            text.sampling_probability = 1.0
            queued += 1
    session.flush()
    return queued


def _take_back(session: Session, text: Text, path: str) -> None:
    """Let a text that was called 其他 wait again; what was answered about it stays to be read."""
    retraction = Annotation(
        domain_id=text.domain_id,
        text_id=text.id,
        question_id=text.question_id,
        labeler_id=answers.SYSTEM,
        revision=answers.next_revision(session, text.id, answers.SYSTEM),
        kind="retract",
        supersedes_id=text.annotation_id,
        source="system",
        reason=f"looks like the new label {path}"[:255],
    )
    session.add(retraction)
    session.flush()
    answers.clear(session, text)
