"""Versions: registered artifacts with their proof, and every flip that ever chose one."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, UtcDateTime


class ModelVersion(Created, Base):
    """A registered artifact. `is_active` is for people who read the table: the domain's pointer is the truth."""

    __tablename__ = "intent_model_versions"
    __table_args__ = table_options(
        UniqueConstraint("version"),
        # True or null, never false: many nulls may stand beside one true, so the database allows one active version.
        UniqueConstraint("domain_id", "is_active"),
        CheckConstraint("is_active = true", name="is_active"),
        CheckConstraint("status IN ('passed', 'refused', 'failed', 'rolled_back')", name="status"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    version: Mapped[str] = mapped_column(String(128))
    recipe: Mapped[str] = mapped_column(String(32))
    model_path: Mapped[str] = mapped_column(String(512))
    artifact_digest: Mapped[str] = mapped_column(HashText)
    training_batch_id: Mapped[int | None] = mapped_column(ForeignKey("intent_model_training_batches.id"), type_=Id)
    parent_version: Mapped[str | None] = mapped_column(String(128))
    is_active: Mapped[bool | None]
    status: Mapped[str] = mapped_column(String(16))
    # Why it was refused or failed, as a sentence.
    reason: Mapped[str | None] = mapped_column(Text)
    # Measured on the exported artifact with the scorer that serves, not on the training code.
    evaluation: Mapped[dict[str, Any]] = mapped_column(Json)
    # The labels as they were when it was trained: [[id, path], …]; null for versions older than the column.
    taxonomy: Mapped[list[list[Any]] | None] = mapped_column(Json)
    temperature: Mapped[float | None]
    threshold: Mapped[float]
    # What it was proved with, and serves with when it is activated for the first time; null without rules.
    rule_set_revision: Mapped[int | None]
    fusion: Mapped[dict[str, Any] | None] = mapped_column(Json)
    train_count: Mapped[int] = mapped_column(default=0)
    activated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ModelActivation(Created, Base):
    """One flip of a domain: a version, a rule set, the fusion and threshold fitted for the pair, a generative version.

    Append-only; a change of rules is a flip too, and a rollback is one more row, with what it restores.
    """

    __tablename__ = "intent_model_activations"
    __table_args__ = table_options(
        UniqueConstraint("domain_id", "epoch"),
        CheckConstraint("kind IN ('activate', 'rules', 'rollback')", name="kind"),
        CheckConstraint("threshold >= 0 AND threshold <= 1", name="threshold"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    epoch: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16), default="activate")
    # Null while only rules answer.
    version_id: Mapped[int | None] = mapped_column(ForeignKey("intent_model_versions.id"), index=True, type_=Id)
    # Which version of the generative tier is asked about what stays below the threshold; null while there is none.
    generative_version_id: Mapped[int | None] = mapped_column(BigInteger)
    threshold: Mapped[float]
    # Null while the domain serves no rules: the frozen rule set and the weights fitted for this pair.
    rule_set_revision: Mapped[int | None]
    fusion: Mapped[dict[str, Any] | None] = mapped_column(Json)
    activated_by: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(String(255))
