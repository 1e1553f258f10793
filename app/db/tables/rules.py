"""Keyword rules: what a word says about the label, and the sets in which they serve."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, LabelText, UtcDateTime


class KeywordRule(Created, Base):
    """One rule that speaks for one label, with the evidence for it.

    It matches a text that holds every word of `all_of` and none of `none_of`, or, with a `pattern`, one that the
    pattern is found in. `keyword` is the rule as people read it, and its name: unique beside its label.
    """

    __tablename__ = "intent_keyword_rules"
    __table_args__ = table_options(
        UniqueConstraint("domain_id", "keyword", "intent", name="uq_intent_keyword_rules_domain_id_keyword_intent"),
        Index(None, "domain_id", "status"),
        CheckConstraint("status IN ('candidate', 'active', 'retired')", name="status"),
        CheckConstraint("source IN ('mined', 'manual')", name="source"),
        CheckConstraint("status <> 'active' OR label_id IS NOT NULL", name="label"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    keyword: Mapped[str] = mapped_column(String(255))
    # The label's path; it follows a label that is renamed or merged. `label_id` is what counts.
    intent: Mapped[str] = mapped_column(LabelText)
    label_id: Mapped[int | None] = mapped_column(ForeignKey("intent_labels.id"), type_=Id)
    all_of: Mapped[list[str] | None] = mapped_column(Json)
    none_of: Mapped[list[str] | None] = mapped_column(Json)
    # RE2 syntax: linear time, whatever a person writes.
    pattern: Mapped[str | None] = mapped_column(String(500))
    # The weight that the fusion of the serving activation gives it, in logits.
    confidence_boost: Mapped[float] = mapped_column(default=0.0)
    # Questions that it matched; distinct texts of those that a person labelled; those whose label it had named.
    usage_count: Mapped[int] = mapped_column(default=0)
    judged_count: Mapped[int] = mapped_column(default=0)
    success_count: Mapped[int] = mapped_column(default=0)
    status: Mapped[str] = mapped_column(String(16), default="candidate")
    source: Mapped[str] = mapped_column(String(16), default="mined")
    # Counted on folds that it was not mined on: texts matched, share of them with its label, Wilson's lower bound.
    support: Mapped[int] = mapped_column(default=0)
    precision: Mapped[float | None]
    precision_lower: Mapped[float | None]
    # The share of all labelled texts that it matches.
    coverage: Mapped[float | None]
    # How much more often it stands in texts of its label than elsewhere, as a z-score.
    log_odds: Mapped[float | None]
    # Ids of questions that it matched, up to five.
    examples: Mapped[list[str] | None] = mapped_column(Json)
    # Why it has the status that it has, as a sentence.
    reason: Mapped[str | None] = mapped_column(String(255))
    created_by: Mapped[str] = mapped_column(String(128), default="clock")
    updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    activated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RuleSet(Created, Base):
    """The active rules of a domain, frozen under a revision: what an activation serves, whatever the rules become."""

    __tablename__ = "intent_rule_sets"
    __table_args__ = table_options(
        UniqueConstraint("domain_id", "revision"),
        CheckConstraint("status IN ('frozen', 'passed', 'refused', 'rolled_back')", name="status"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    revision: Mapped[int]
    # Of the rules alone: equal sets have equal digests.
    digest: Mapped[str] = mapped_column(HashText)
    rules: Mapped[list[dict[str, Any]]] = mapped_column(Json)
    rule_count: Mapped[int] = mapped_column(default=0)
    status: Mapped[str] = mapped_column(String(16), default="frozen")
    # Why it was refused, as a sentence.
    reason: Mapped[str | None] = mapped_column(Text)
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(Json)
    created_by: Mapped[str] = mapped_column(String(128), default="clock")
