"""What mining reads from the rows and what it leaves there: labelled texts and words in, rules with evidence out."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label, Text
from app.db.tables.base import now
from app.errors import NoTexts, RuleRefused, TooManyRules
from app.intent.rules import LEAST_BOUND, LEAST_SUPPORT, LONGEST_WORD, MOST_RULES, without_marks
from app.intent.taxonomy import split
from app.intent.text import MaskedText
from app.services import members, rule_sets, rule_wording, rules, taxonomy

POLICY: Final = f"by policy: lower bound of precision at least {LEAST_BOUND}, support at least {LEAST_SUPPORT}"
MOST_DICTIONARY_WORDS: Final = 10_000
# So many digits in a row may be somebody's number.
_LEAST_NUMBER: Final = 5
_PAGE: Final = 1000


class Mined(Protocol):
    """A rule that was found, with its evidence; `examples` are positions of texts."""

    @property
    def label_id(self) -> int: ...
    @property
    def all_of(self) -> tuple[str, ...]: ...
    @property
    def support(self) -> int: ...
    @property
    def precision(self) -> float: ...
    @property
    def precision_lower(self) -> float: ...
    @property
    def coverage(self) -> float: ...
    @property
    def log_odds(self) -> float: ...
    @property
    def examples(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Material:
    """What rules are mined from; texts, labels and question ids belong together.

    The texts hold no marks of masking: they are no words of those who asked. A text that was only imported has no
    question.
    """

    texts: Sequence[MaskedText]
    label_ids: Sequence[int]
    question_ids: Sequence[str | None]
    user_words: Sequence[str]


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of mined rules.

    Args:
        mined: how many were found; each is new, updated or kept, but for those that there was no room for.
        kept: found again, and left alone because a person wrote them.
        activated: made active by the policy.
        retired: mined before with another label for the same words.
        conflicts: rules whose keyword another living rule gives another label.
    """

    mined: int
    new: int
    updated: int
    kept: int
    activated: int
    retired: int
    conflicts: int
    rule_ids: Sequence[int]


def material(session: Session, domain: Domain) -> Material:
    """The texts of a domain that may be trained on, and the words that must not be cut.

    Gold is not among them: rules are judged on it.

    Raises:
        NoTexts: the domain keeps no text, and nothing was imported.
    """
    waiting = members.waiting_labels(session, domain.id)
    rows = session.execute(
        select(Text.text, Text.label_id, Text.question_id)
        .where(members.trainable(domain.id, waiting))
        .order_by(Text.id)
    ).all()
    if not rows and not domain.keep_text:
        raise NoTexts(f"domain {domain.name!r} keeps no text: there is nothing to mine")
    return Material(
        texts=[MaskedText(without_marks(text or "")) for text, _, _ in rows],
        label_ids=[label_id or 0 for _, label_id, _ in rows],
        question_ids=[question_id for _, _, question_id in rows],
        user_words=user_words(session, domain),
    )


def user_words(session: Session, domain: Domain) -> list[str]:
    """Words that the cutter must know: levels of the labels, words of the rules, the domain's dictionary; sorted."""
    paths = session.scalars(select(Label.path).where(Label.domain_id == domain.id, Label.status == "active"))
    used = session.scalars(
        select(KeywordRule.all_of).where(KeywordRule.domain_id == domain.id, KeywordRule.status.in_(rules.ALIVE))
    )
    words = {level for path in paths for level in split(path)}
    words |= {word for all_of in used for word in all_of or ()}
    return sorted(words | set(domain.dictionary or ()))


def set_dictionary(session: Session, domain: Domain, words: Sequence[str]) -> list[str]:
    """Make these the words of the domain, which is locked, that the cutter must not cut; gives them as they are kept.

    Raises:
        RuleRefused: a word is empty or too long, or there are too many.
    """
    if len(words) > MOST_DICTIONARY_WORDS:
        raise RuleRefused(f"a dictionary has at most {MOST_DICTIONARY_WORDS} words")
    domain.dictionary = sorted({word for given in words for word in rule_wording.read(given).all_of}) or None
    session.flush()
    return domain.dictionary or []


def store_mined(
    session: Session, domain: Domain, mined: Sequence[Mined], question_ids: Sequence[str | None], *, created_by: str
) -> Stored:
    """Keep what was found: new rules as candidates, known ones with their fresh evidence. The domain must be locked.

    Rules that a person wrote are left as they are, and a retired one stays retired. Where the domain's policy is
    `auto`, candidates with enough evidence become active.
    """
    labels = {label.id: label.path for label in taxonomy.active(session, domain.id)}
    wanted = {
        (rule_wording.name_of(sorted(rule.all_of)), labels[rule.label_id]): rule
        for rule in mined
        if rule.label_id in labels and may_be_mined(rule.all_of)
    }
    known = _known(session, domain, [keyword for keyword, _ in wanted])
    room = MOST_RULES - rules.count_alive(session, domain.id)
    touched: list[KeywordRule] = []
    new = updated = kept = 0
    for (keyword, intent), found in wanted.items():
        rule = known.get((keyword, intent))
        if rule is None:
            if new >= room:
                continue
            rule = KeywordRule(domain_id=domain.id, keyword=keyword, intent=intent, all_of=sorted(found.all_of))
            rule.label_id, rule.status, rule.source, rule.created_by = found.label_id, "candidate", "mined", created_by
            rule.reason = "mined; waits for more evidence or for a person"
            session.add(rule)
            new += 1
        elif rule.source == "manual":
            kept += 1
            touched.append(rule)
            continue
        else:
            updated += 1
        _put_evidence(rule, found, question_ids)
        touched.append(rule)
    session.flush()
    retired = _retire_contradicted(session, domain, known, set(wanted))
    activated = activate_by_policy(session, domain)
    conflicts = rules.conflicts_of(session, touched)
    return Stored(
        mined=len(wanted),
        new=new,
        updated=updated,
        kept=kept,
        activated=activated,
        retired=retired,
        conflicts=sum(bool(others) for others in conflicts.values()),
        rule_ids=sorted(rule.id for rule in touched),
    )


def activate_by_policy(session: Session, domain: Domain) -> int:
    """Activate the mined candidates with enough evidence, unless people decide; how many. The domain must be locked."""
    if domain.rule_policy != "auto":
        return 0
    candidates = session.scalars(
        select(KeywordRule)
        .join(Label, Label.id == KeywordRule.label_id)
        .where(
            KeywordRule.domain_id == domain.id,
            KeywordRule.status == "candidate",
            KeywordRule.source == "mined",
            KeywordRule.precision_lower >= LEAST_BOUND,
            KeywordRule.support >= LEAST_SUPPORT,
            # One that was active before was turned down by a proof or by a person: only a person brings it back.
            KeywordRule.activated_at.is_(None),
            Label.status == "active",
        )
        .order_by(KeywordRule.id)
    ).all()
    if not candidates:
        return 0
    for rule in candidates:
        rules.begin_anew(rule)
        rule.status, rule.reason, rule.updated_at = "active", POLICY, now()
    session.flush()
    try:
        rules.refuse_too_large_a_set(session, domain)
    except TooManyRules as error:
        for rule in candidates:
            rule.status, rule.reason, rule.activated_at = "candidate", str(error), None
        session.flush()
        return 0
    rule_sets.mark_changed(session, domain)
    return len(candidates)


def _retire_contradicted(
    session: Session,
    domain: Domain,
    known: Mapping[tuple[str, str], KeywordRule],
    wanted: Set[tuple[str, str]],
) -> int:
    """Retire what was mined before for another label than all that is found for these words now."""
    retired = 0
    for key, rule in known.items():
        if key not in wanted and rule.source == "mined" and rule.status in rules.ALIVE:
            retired += rules.set_status(session, domain, rule, "retired", reason="mined again, for another label")
    return retired


def may_be_mined(all_of: Sequence[str]) -> bool:
    """Whether a mined rule may look for these words: no long numbers, and no single character alone."""
    if not all_of or any(not 1 <= len(word) <= LONGEST_WORD for word in all_of):
        return False
    if any(word.isdigit() and len(word) >= _LEAST_NUMBER for word in all_of):
        return False
    return len(all_of) > 1 or len(all_of[0]) > 1


def _known(session: Session, domain: Domain, keywords: Sequence[str]) -> dict[tuple[str, str], KeywordRule]:
    known: dict[tuple[str, str], KeywordRule] = {}
    for start in range(0, len(keywords), _PAGE):
        rows = session.scalars(
            select(KeywordRule)
            .where(KeywordRule.domain_id == domain.id, KeywordRule.keyword.in_(keywords[start : start + _PAGE]))
            .order_by(KeywordRule.id)
        )
        known.update({(row.keyword, row.intent): row for row in rows})
    return known


def _put_evidence(rule: KeywordRule, found: Mined, question_ids: Sequence[str | None]) -> None:
    rule.support, rule.precision, rule.precision_lower = found.support, found.precision, found.precision_lower
    rule.coverage, rule.log_odds = found.coverage, found.log_odds
    rule.examples = [question_id for position in found.examples if (question_id := question_ids[position])]
    rule.updated_at = now()
